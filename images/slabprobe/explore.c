// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Exploration: whoever comes by a chosen instruction of a module, for a chosen
 * time, is delayed there, so that others overtake him as they might on any other
 * day. Kprobes are set at points that the host names, FUNCTION+OFFSET.
 *
 * A task that may sleep there is sent through a trampoline that sleeps, so that
 * others on its CPU run as well, and comes back to the instruction; anybody else
 * spins, and other CPUs run. Nothing is changed but time.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/linkage.h>
#include <linux/module.h>
#include <linux/objtool.h>
#include <linux/preempt.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/version.h>
#include <asm/processor.h>
#include <asm/ptrace.h>

#include "slabprobe.h"
#include "explore.h"

#define NR_POINTS	768
#define NR_DELAYS	64
#define NR_PASSING	64
#define NAME_LEN	80
#define MAX_DELAY_US	100000

/* Kernels of before return thunks have no word for it. */
#ifndef ASM_RET
#define ASM_RET	"ret\n"
#endif

struct point {
	struct kprobe kprobe;
	char name[NAME_LEN];		/* MODULE:FUNCTION */
	int err;
	atomic_t hits;
};

/* One delay that is to be, and what became of it. */
struct delay {
	struct point *point;
	unsigned int hit;		/* counted from 1 */
	unsigned int us;
	bool done, slept;
	u64 at_ns;
	pid_t pid;
	unsigned int cpu;
	char comm[TASK_COMM_LEN];
};

static struct point *points[NR_POINTS];
static unsigned int nr_points;
static struct delay delays[NR_DELAYS];
static unsigned int nr_delays;
static bool on;
static atomic_t inside = ATOMIC_INIT(0);

/* Tasks that have slept at an instruction, and are to pass when they come to it again. */
static struct passing {
	struct task_struct *task;
	unsigned long address;
} passing[NR_PASSING];

static bool pass(unsigned long address)
{
	unsigned int i;

	for (i = 0; i < NR_PASSING; i++)
		if (READ_ONCE(passing[i].task) == current && passing[i].address == address) {
			WRITE_ONCE(passing[i].task, NULL);
			return true;
		}
	return false;
}

static struct passing *begin_pass(unsigned long address)
{
	unsigned int i;

	for (i = 0; i < NR_PASSING; i++)
		if (!cmpxchg(&passing[i].task, NULL, current)) {
			passing[i].address = address;
			return &passing[i];
		}
	return NULL;
}

/* What the handler itself adds: the entry by int3 counts as an interrupt that nothing masks (v5.8, irqentry_nmi_enter()). */
static bool may_sleep(const struct pt_regs *regs)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 14, 0)
	unsigned int state = READ_ONCE(current->__state);
#else
	long state = READ_ONCE(current->state);
#endif
	unsigned int own = in_nmi() ? NMI_OFFSET + HARDIRQ_OFFSET : 0;

	/* Without CONFIG_PREEMPT_COUNT a lock that is held does not show. */
	if (!IS_ENABLED(CONFIG_PREEMPT_COUNT) || preempt_count() != own)
		return false;
	return (regs->flags & X86_EFLAGS_IF) && state == TASK_RUNNING && !is_idle_task(current) &&
	       !(current->flags & PF_EXITING);
}

static noinline void spin(unsigned int us)
{
	u64 end = ktime_get_mono_fast_ns() + (u64)us * NSEC_PER_USEC;

	while (ktime_get_mono_fast_ns() < end)
		cpu_relax();
}

/* In the task's own context, as if the instruction's function had called it. */
static __used void slabprobe_explore_sleep(unsigned long us)
{
	unsigned long end_us = us;

	usleep_range(end_us, end_us + 1);
	atomic_dec(&inside);
}

/*
 * On the stack: the instruction to come back to, and above it the caller's. All
 * registers and flags are as they were; the red zone is no matter in the kernel.
 */
void slabprobe_explore_trampoline(void);
asm(
	".text\n"
	".type slabprobe_explore_trampoline, @function\n"
	"slabprobe_explore_trampoline:\n"
	"	pushfq\n"
	"	pushq %rbp\n"
	"	movq %rsp, %rbp\n"
	"	pushq %rax\n	pushq %rcx\n	pushq %rdx\n	pushq %rsi\n"
	"	pushq %rdi\n	pushq %r8\n	pushq %r9\n	pushq %r10\n"
	"	pushq %r11\n	pushq %rbx\n"
	"	movq 16(%rbp), %rdi\n"
	"	andq $-16, %rsp\n"
	"	call slabprobe_explore_sleep\n"
	"	leaq -80(%rbp), %rsp\n"
	"	popq %rbx\n	popq %r11\n	popq %r10\n	popq %r9\n"
	"	popq %r8\n	popq %rdi\n	popq %rsi\n	popq %rdx\n"
	"	popq %rcx\n	popq %rax\n"
	"	popq %rbp\n"
	"	popfq\n"
	"	leaq 8(%rsp), %rsp\n"
	"	" ASM_RET
	"\n"
	".size slabprobe_explore_trampoline, .-slabprobe_explore_trampoline\n"
);
/* Whoever walks the stack of a sleeper ends here. */
STACK_FRAME_NON_STANDARD(slabprobe_explore_trampoline);

/* There is room for it: the entry by int3 leaves six words free below the stack of the kernel's (asm_exc_int3). */
static void push(struct pt_regs *regs, unsigned long word)
{
	regs->sp -= sizeof(long);
	*(unsigned long *)regs->sp = word;
}

static bool send_to_sleep(struct pt_regs *regs, unsigned long address, unsigned int us)
{
	if (!may_sleep(regs) || !begin_pass(address))
		return false;
	atomic_inc(&inside);
	push(regs, address);
	push(regs, us);
	regs->ip = (unsigned long)slabprobe_explore_trampoline;
	return true;
}

static struct delay *find_delay(const struct point *point, unsigned int hit)
{
	unsigned int i;

	for (i = 0; i < nr_delays; i++)
		if (delays[i].point == point && delays[i].hit == hit)
			return &delays[i];
	return NULL;
}

/* As one word. */
static void name_task(char *to)
{
	unsigned int i;

	memcpy(to, current->comm, TASK_COMM_LEN);
	to[TASK_COMM_LEN - 1] = '\0';
	for (i = 0; to[i]; i++)
		if (to[i] <= ' ' || to[i] == '=' || to[i] > '~')
			to[i] = '_';
}

static int at_point(struct kprobe *kprobe, struct pt_regs *regs)
{
	struct point *point = container_of(kprobe, struct point, kprobe);
	unsigned long address = (unsigned long)kprobe->addr;
	struct delay *delay;

	if (pass(address) || !READ_ONCE(on))
		return 0;
	delay = find_delay(point, atomic_inc_return(&point->hits));
	if (!delay)
		return 0;
	delay->at_ns = ktime_get_mono_fast_ns();
	delay->pid = task_pid_nr(current);
	delay->cpu = raw_smp_processor_id();
	name_task(delay->comm);
	delay->slept = send_to_sleep(regs, address, delay->us);
	WRITE_ONCE(delay->done, true);
	if (delay->slept)
		return 1;
	spin(delay->us);
	return 0;
}

/* With it the kernel does not make a jump of the kprobe, from which nobody can be sent elsewhere. */
static void after_point(struct kprobe *kprobe, struct pt_regs *regs, unsigned long flags)
{
}

static struct point *set_point(const char *function, unsigned int offset)
{
	struct point *point;
	unsigned int i;

	for (i = 0; i < nr_points; i++)
		if (points[i]->kprobe.offset == offset && !strcmp(points[i]->name, function))
			return points[i];
	if (nr_points == NR_POINTS)
		return ERR_PTR(-ENOSPC);
	point = kzalloc(sizeof(*point), GFP_KERNEL);
	if (!point)
		return ERR_PTR(-ENOMEM);
	strscpy(point->name, function, sizeof(point->name));
	point->kprobe.symbol_name = point->name;
	point->kprobe.offset = offset;
	point->kprobe.pre_handler = at_point;
	point->kprobe.post_handler = after_point;
	points[nr_points++] = point;
	point->err = register_kprobe(&point->kprobe);
	return point;
}

static struct point *parse_point(char *word)
{
	char *function = strsep(&word, "+");
	unsigned int offset;

	if (!word || kstrtouint(word, 0, &offset) || strlen(function) >= NAME_LEN)
		return ERR_PTR(-EINVAL);
	return set_point(function, offset);
}

/* FUNCTION+OFFSET of each; one that cannot be set is told of at the end. */
static int add_points(char *args)
{
	char *word;

	while ((word = strsep(&args, " ")) != NULL) {
		struct point *point = *word ? parse_point(word) : NULL;

		if (IS_ERR(point))
			return PTR_ERR(point);
	}
	return 0;
}

/* FUNCTION+OFFSET HIT US */
static int add_delay(char *args)
{
	struct delay *delay = &delays[nr_delays];
	char *word = args ? strsep(&args, " ") : NULL, *hit = args ? strsep(&args, " ") : NULL;
	struct point *point;

	if (nr_delays == NR_DELAYS)
		return -ENOSPC;
	if (!word || !hit || !args || kstrtouint(hit, 0, &delay->hit) || kstrtouint(args, 0, &delay->us) ||
	    !delay->hit || delay->us > MAX_DELAY_US)
		return -EINVAL;
	point = parse_point(word);
	if (IS_ERR(point))
		return PTR_ERR(point);
	delay->point = point;
	nr_delays++;
	return point->err;
}

/* On the console, since it is asked for once. */
static void tell_points(void)
{
	unsigned int i;

	for (i = 0; i < nr_points; i++)
		pr_info(PROBE_NAME ": point %s+%#x hits=%u err=%d\n", points[i]->name,
			points[i]->kprobe.offset, atomic_read(&points[i]->hits), points[i]->err);
	pr_info(PROBE_NAME ": points end\n");
}

/* points ..., delay ..., on, off, tell */
int probe_explore_command(char *args)
{
	char *word = strsep(&args, " ");

	if (!word)
		return -EINVAL;
	if (!strcmp(word, "points"))
		return add_points(args);
	if (!strcmp(word, "delay"))
		return add_delay(args);
	if (!strcmp(word, "on") || !strcmp(word, "off")) {
		WRITE_ONCE(on, !strcmp(word, "on"));
		return 0;
	}
	if (strcmp(word, "tell"))
		return -EINVAL;
	tell_points();
	return 0;
}

void probe_explore_show(struct seq_file *m)
{
	unsigned int i, done = 0;
	u64 hits = 0;

	if (!nr_points)
		return;
	for (i = 0; i < nr_points; i++)
		hits += atomic_read(&points[i]->hits);
	for (i = 0; i < nr_delays; i++)
		done += READ_ONCE(delays[i].done);
	seq_printf(m, "explore on=%u points=%u hits=%llu delays=%u done=%u\n", READ_ONCE(on), nr_points,
		   hits, nr_delays, done);
	for (i = 0; i < nr_delays; i++)
		if (READ_ONCE(delays[i].done))
			seq_printf(m, "delayed %u point=%s+%#x hit=%u us=%u at_ns=%llu pid=%d cpu=%u slept=%u comm=%s\n",
				   i, delays[i].point->name, delays[i].point->kprobe.offset,
				   delays[i].hit, delays[i].us, delays[i].at_ns, delays[i].pid,
				   delays[i].cpu, delays[i].slept, delays[i].comm);
}

/* Where the text of modules is, for whoever looks at the guest's memory from outside. */
static void tell_text(const struct module *module)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	unsigned long text = (unsigned long)module->mem[MOD_TEXT].base;
#else
	unsigned long text = (unsigned long)module->core_layout.base;
#endif
	pr_info(PROBE_NAME ": text of %s is at %#lx\n", module->name, text);
}

void probe_explore_init(void)
{
	struct module *module;

	tell_text(THIS_MODULE);
	rcu_read_lock();
	/* The list's head, which is none, is not in reach of a name. */
	list_for_each_entry_rcu(module, &THIS_MODULE->list, list)
		if (!strcmp(module->name, "spl")) {
			tell_text(module);
			break;
		}
	rcu_read_unlock();
}

void probe_explore_exit(void)
{
	unsigned int i;

	WRITE_ONCE(on, false);
	for (i = 0; i < nr_points; i++)
		if (!points[i]->err)
			unregister_kprobe(&points[i]->kprobe);
	/* Whoever sleeps comes back to an instruction that is the module's own again. */
	while (atomic_read(&inside))
		schedule_timeout_uninterruptible(1);
	synchronize_rcu_tasks();
	for (i = 0; i < nr_points; i++)
		kfree(points[i]);
	nr_points = 0;
}
