// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU that holds a guest at an instruction: where it executes
 * `nopl 0x1ea5e0fb(%rax)`, see images/guest/agent_bell.c.
 *
 * The thread of all virtual CPUs waits here without QEMU's lock, so QEMU takes
 * commands meanwhile: one that stops the machine has marked all CPUs when the
 * thread is let go, and they stop at the end of this translated block. So the
 * machine is always stopped at the same instruction. framework/splvm/guest/hold.py
 * has the other end of the socket.
 *
 * QEMU's header is in no package of Debian; these are the few declarations of
 * its API that are used, as docs/devel/tcg-plugins of QEMU 10.0 has them.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t qemu_plugin_id_t;

__attribute__((visibility("default"))) int qemu_plugin_version = 4;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t at);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
					   void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
					  void (*cb)(unsigned int, void *), int flags, void *data);

static const uint8_t here[] = { 0x0f, 0x1f, 0x80, 0xfb, 0xe0, 0xa5, 0x1e };
static int host = -1;

static void hold(unsigned int cpu, void *data)
{
	char byte = 'h';

	(void)cpu;
	(void)data;
	/* When nobody is at the other end any more, nothing is held. */
	if (write(host, &byte, 1) == 1 && read(host, &byte, 1) < 0)
		abort();
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint8_t code[sizeof(here)];
	size_t i;

	(void)id;
	for (i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		if (qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i), code, sizeof(code)) != sizeof(code) ||
		    memcmp(code, here, sizeof(here)))
			continue;
		qemu_plugin_register_vcpu_tb_exec_cb(tb, hold, 0, NULL);
		return;
	}
}

/* The argument is `host=N`, a descriptor of the socket. */
__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc == 1 && !strncmp(argv[0], "host=", 5))
		host = atoi(argv[0] + 5);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
