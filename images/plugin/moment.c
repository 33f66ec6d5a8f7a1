// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU (TCG): counts the instructions of a guest whose time they are,
 * and holds its CPUs at a moment.
 *
 * Nothing of it is seen by the guest, so a run with it is the run without it. All
 * virtual CPUs are one thread (-icount), so nothing here needs a lock. QEMU's own
 * header is in no package; the few functions that are used are declared here, as
 * version 4 of the interface has them (QEMU 10.0, include/qemu/qemu-plugin.h).
 *
 * The time stamp counter of such a guest counts ns of its virtual clock. Whenever
 * a CPU has read it, the clock is known; after that it goes on by what each
 * instruction takes, or leaps while the guest idles. So the instruction at which
 * a moment is reached is known before it comes.
 *
 * Arguments: shared=FILE (struct shared below), socket=FD, ns=N of an instruction.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;
typedef uint64_t qemu_plugin_id_t;
enum { NO_REGS, READ_REGS };

/* Those of GLib that the interface gives and takes. */
struct array {
	char *data;
	unsigned int len;
};

struct reg_descriptor {
	struct qemu_plugin_register *handle;
	const char *name;
	const char *feature;
};

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t idx);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, unsigned int));
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
					   void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*cb)(unsigned int, void *),
					  int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    void (*cb)(unsigned int, void *), int flags, void *data);
struct array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(struct qemu_plugin_register *handle, struct array *buf);
struct array *g_byte_array_new(void);
struct array *g_byte_array_set_size(struct array *array, unsigned int len);

__attribute__((visibility("default"))) int qemu_plugin_version = 4;

/* framework/splvm/guest/moment.py has the same. */
static volatile struct shared {
	uint64_t count;		/* instructions since the plugin was loaded, but for those of the block under way */
	uint64_t clock;		/* the time stamp counter as it was read last, ns */
	uint64_t clock_count;	/* count at that moment */
	uint64_t hold_at;	/* the host's: the clock at which the CPUs are held; 0: nowhere */
	uint64_t held;		/* 1: they were */
	uint64_t held_count;	/* count then, in front of the block that comes next */
} *shared;

#define MAX_CPUS 64

static uint64_t hold_count = UINT64_MAX;
static uint64_t insn_ns = 8;
static int host = -1;
/* Where a CPU goes on that has read the counter; 0: it has not. */
static uint64_t after_read[MAX_CPUS];

/* What QEMU translated at once. One is kept for each translation, as QEMU keeps what it made of it. */
struct block {
	uint64_t start;
	uint64_t insns;
};
static struct qemu_plugin_register *rax, *rdx;
static struct array *value;

static uint32_t low_half(struct qemu_plugin_register *handle)
{
	uint32_t half = 0;

	g_byte_array_set_size(value, 0);
	if (qemu_plugin_read_register(handle, value) >= 4)
		memcpy(&half, value->data, 4);
	return half;
}

/* When the next moment comes if the guest does not idle. */
static void aim(void)
{
	uint64_t at = shared->hold_at;

	if (!at || shared->held)
		hold_count = UINT64_MAX;
	else
		hold_count = shared->clock_count + (at > shared->clock ? (at - shared->clock) / insn_ns : 0);
}

static void hold(void)
{
	char byte = 'h';

	shared->held = 1;
	shared->held_count = shared->count;
	hold_count = UINT64_MAX;
	/* No instruction is executed until the host answers. */
	if (write(host, &byte, 1) != 1 || read(host, &byte, 1) < 0)
		abort();
}

static void enter_block(unsigned int cpu, void *entered)
{
	const struct block *block = entered;
	uint64_t after = after_read[cpu % MAX_CPUS];

	after_read[cpu % MAX_CPUS] = 0;
	/*
	 * With icount QEMU may translate the instruction once more, alone,
	 * before it is executed: then its own block comes first. Elsewhere, in
	 * an interrupt, the registers may be others already.
	 */
	if (__builtin_expect(after && after == block->start, 0)) {
		shared->clock = (uint64_t)low_half(rdx) << 32 | low_half(rax);
		shared->clock_count = shared->count;
		aim();
	}
	if (__builtin_expect(shared->count >= hold_count, 0))
		hold();
	shared->count += block->insns;
}

/* It ends its block, so the value is there when the CPU enters the next one. */
static void read_clock(unsigned int cpu, void *after)
{
	after_read[cpu % MAX_CPUS] = (uintptr_t)after;
}

static bool reads_clock(const struct qemu_plugin_insn *insn)
{
	uint8_t code[3] = { 0 };

	qemu_plugin_insn_data(insn, code, sizeof(code));
	return code[0] == 0x0f && (code[1] == 0x31 || (code[1] == 0x01 && code[2] == 0xf9));
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb), i;
	struct block *block = malloc(sizeof(*block));

	if (!block)
		abort();
	*block = (struct block){ .start = qemu_plugin_tb_vaddr(tb), .insns = n };
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uintptr_t after = qemu_plugin_insn_vaddr(insn) + qemu_plugin_insn_size(insn);

		if (rax && rdx && reads_clock(insn))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, read_clock, NO_REGS, (void *)after);
	}
	qemu_plugin_register_vcpu_tb_exec_cb(tb, enter_block, READ_REGS, block);
}

static void begin_cpu(qemu_plugin_id_t id, unsigned int cpu)
{
	struct array *registers;
	struct reg_descriptor *each;

	if (rax)
		return;
	value = g_byte_array_new();
	registers = qemu_plugin_get_registers();
	each = (void *)registers->data;
	for (unsigned int i = 0; i < registers->len; i++) {
		if (!strcmp(each[i].name, "rax"))
			rax = each[i].handle;
		if (!strcmp(each[i].name, "rdx"))
			rdx = each[i].handle;
	}
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	int fd = -1;

	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "shared=", 7))
			fd = open(argv[i] + 7, O_RDWR | O_CLOEXEC);
		if (!strncmp(argv[i], "socket=", 7))
			host = atoi(argv[i] + 7);
		if (!strncmp(argv[i], "ns=", 3))
			insn_ns = strtoull(argv[i] + 3, NULL, 10);
	}
	if (fd < 0 || host < 0 || !insn_ns)
		return -1;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (shared == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_init_cb(id, begin_cpu);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
