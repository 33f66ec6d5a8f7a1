# sh -c "$(cat make.sh)" sh COMMAND [ARGUMENT...]
# Runs mmdebstrap with a directory in memory for its work, which nobody else sees and which goes away with this process,
# however that ends. To be called under `unshare --mount --pid --fork`. /dev/shm is on every host, and what mmdebstrap
# may be told to read, such as a mirror in a directory, is not there.
set -eu
mount -t tmpfs -o mode=755 tmpfs /dev/shm
TMPDIR=/dev/shm HOME=/dev/shm "$@"
