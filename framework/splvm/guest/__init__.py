"""Guests: QEMU, the serial console, SSH, and the agent's stream. Knows nothing of SPL or of verdicts."""
