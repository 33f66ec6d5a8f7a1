// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU (TCG): notes which instructions of a range of addresses are
 * translated. QEMU translates a block when a CPU is about to enter it for the
 * first time, so that is: which were executed. Nothing is called when one is
 * executed, so it costs the guest nothing.
 *
 * QEMU's own header is in no package; the few functions that are used are
 * declared here, as version 4 of the interface has them (QEMU 10.0,
 * include/qemu/qemu-plugin.h).
 *
 * The argument is shared=FILE (struct shared below).
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t qemu_plugin_id_t;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t idx);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
					   void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));

__attribute__((visibility("default"))) int qemu_plugin_version = 4;

/* framework/splvm/guest/cover.py has the same, and makes it before QEMU is started. */
static struct shared {
	uint64_t start;		/* addresses of the range */
	uint64_t length;
	uint8_t marks[];	/* 1: an instruction that begins there was executed */
} *shared;

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb), i;

	for (i = 0; i < n; i++) {
		uint64_t at = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i)) - shared->start;

		if (at < shared->length)
			shared->marks[at] = 1;
	}
}

static void *map(int fd, size_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	struct shared head = { 0 };
	int fd = argc == 1 && !strncmp(argv[0], "shared=", 7) ? open(argv[0] + 7, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return -1;
	if (read(fd, &head, sizeof(head)) == sizeof(head))
		shared = map(fd, sizeof(head) + head.length);
	close(fd);
	if (!shared)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
