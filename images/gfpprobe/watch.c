// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the page allocator is asked for by one task.
 *
 * A probe on the page allocator's innermost entry sees the flags as they are
 * passed, and the scopes of the task at that moment. Return probes on the
 * functions that make a table of each level tell what the page is for.
 */
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>

#include "gfpprobe.h"

#define CONTEXT_MASK	(NMI_MASK | HARDIRQ_MASK | SOFTIRQ_MASK)

const char * const gfpprobe_level_names[NR_LEVELS] = { "other", "pte", "pmd", "pud", "p4d" };

/*
 * Every page comes through the first of these that a kernel has:
 * __alloc_pages_nodemask() until Linux commit 84172f4bb752 (in v5.13), then
 * __alloc_pages(), with _noprof since b951aaff5035 (in v6.10), and since
 * 49249a2a5eeb (in v6.14) through one for pages without a reference.
 */
static const char * const entries[] = {
	"__alloc_frozen_pages_noprof",
	"__alloc_pages_noprof",
	"__alloc_pages",
	"__alloc_pages_nodemask",
	NULL,
};

static struct task_struct *watched;
static struct gfpprobe_seen *seen;
static enum gfpprobe_level level;
/* Bits of preempt_count() in a handler that runs on behalf of the task and not of an interrupt. */
static unsigned int task_context;

/*
 * The self-test: an allocation with flags and an order that nothing else uses
 * has to be seen once, as it was made.
 */
#define TEST_GFP	(GFP_NOWAIT | __GFP_NORETRY | __GFP_NOMEMALLOC | __GFP_ZERO)
#define TEST_ORDER	2
static bool testing;
static gfp_t test_seen_gfp;
static unsigned int test_seen;

static void count_alloc(gfp_t gfp)
{
	struct gfpprobe_alloc now = {
		.level = level,
		.gfp = gfp,
		.effective = current_gfp_context(gfp),
		.noio = current->flags & PF_MEMALLOC_NOIO,
		.nofs = current->flags & PF_MEMALLOC_NOFS,
		.count = 1,
	};
	unsigned int i;

	for (i = 0; i < seen->nr_allocs; i++) {
		struct gfpprobe_alloc *old = &seen->allocs[i];

		if (old->level == now.level && old->gfp == now.gfp && old->effective == now.effective &&
		    old->noio == now.noio && old->nofs == now.nofs) {
			old->count++;
			return;
		}
	}
	if (seen->nr_allocs == GFPPROBE_MAX_ALLOCS)
		seen->lost++;
	else
		seen->allocs[seen->nr_allocs++] = now;
}

static int on_alloc(struct kprobe *p, struct pt_regs *regs)
{
	unsigned int context = preempt_count() & CONTEXT_MASK;
	gfp_t gfp = (__force gfp_t)regs_get_kernel_argument(regs, 0);

	if (current != READ_ONCE(watched))
		return 0;
	if (testing && (unsigned int)regs_get_kernel_argument(regs, 1) == TEST_ORDER) {
		task_context = context;
		test_seen_gfp = gfp;
		test_seen++;
	} else if (!testing && context == task_context) {
		count_alloc(gfp);
	}
	return 0;
}

static struct kprobe alloc_probe;

/* The instance has its probe in different places (Linux commit d741bf41d7c7 (in v5.11)), hence one function each. */
static int on_table(enum gfpprobe_level which)
{
	if (current != READ_ONCE(watched) || testing)
		return 1;
	level = which;
	seen->calls[which]++;
	return 0;
}

#define DEFINE_ON_TABLE(name, which)							\
	static int name(struct kretprobe_instance *instance, struct pt_regs *regs)	\
	{										\
		return on_table(which);							\
	}

DEFINE_ON_TABLE(on_pte, LEVEL_PTE)
DEFINE_ON_TABLE(on_pmd, LEVEL_PMD)
DEFINE_ON_TABLE(on_pud, LEVEL_PUD)
DEFINE_ON_TABLE(on_p4d, LEVEL_P4D)

static int on_table_done(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	level = LEVEL_OTHER;
	return 0;
}

#define TABLE_PROBE(function, on_entry)	\
	{ .kp.symbol_name = function, .entry_handler = on_entry, .handler = on_table_done }

static struct kretprobe table_probes[NR_LEVELS] = {
	[LEVEL_PTE] = TABLE_PROBE("__pte_alloc_kernel", on_pte),
	[LEVEL_PMD] = TABLE_PROBE("__pmd_alloc", on_pmd),
	[LEVEL_PUD] = TABLE_PROBE("__pud_alloc", on_pud),
	[LEVEL_P4D] = TABLE_PROBE("__p4d_alloc", on_p4d),
};
static bool table_probed[NR_LEVELS];

void gfpprobe_watch_begin(struct gfpprobe_seen *into)
{
	seen = into;
	level = LEVEL_OTHER;
	WRITE_ONCE(watched, current);
}

void gfpprobe_watch_end(void)
{
	WRITE_ONCE(watched, NULL);
}

static void test(void)
{
	struct page *page;

	testing = true;
	WRITE_ONCE(watched, current);
	page = alloc_pages(TEST_GFP, TEST_ORDER);
	WRITE_ONCE(watched, NULL);
	testing = false;
	if (page)
		__free_pages(page, TEST_ORDER);
}

/*
 * The address of the first of these functions that the kernel has, exported or
 * not. On a kernel built for indirect branch tracking it is the one behind
 * ENDBR (arch_adjust_kprobe_addr()), so tracking has to be off to call it.
 */
void *gfpprobe_function(const char * const *names, const char **found)
{
	for (; *names; names++) {
		struct kprobe probe = { .symbol_name = *names };

		if (register_kprobe(&probe))
			continue;
		unregister_kprobe(&probe);
		*found = *names;
		return probe.addr;
	}
	return NULL;
}

int gfpprobe_watch_init(void)
{
	const char * const *name;
	int err = -ENOENT;
	unsigned int i;

	for (name = entries; *name; name++) {
		alloc_probe = (struct kprobe){ .symbol_name = *name, .pre_handler = on_alloc };
		err = register_kprobe(&alloc_probe);
		if (!err)
			break;
	}
	if (err) {
		pr_err(GFPPROBE_NAME ": cannot probe the page allocator: %d\n", err);
		return err;
	}
	/* A kernel that never has five levels has no __p4d_alloc(). */
	for (i = LEVEL_PTE; i < NR_LEVELS; i++)
		table_probed[i] = !register_kretprobe(&table_probes[i]);
	test();
	return 0;
}

void gfpprobe_watch_exit(void)
{
	unsigned int i;

	for (i = LEVEL_PTE; i < NR_LEVELS; i++)
		if (table_probed[i])
			unregister_kretprobe(&table_probes[i]);
	unregister_kprobe(&alloc_probe);
}

void gfpprobe_watch_show(struct seq_file *m)
{
	unsigned int i;

	seq_printf(m, "probed alloc=%s", alloc_probe.symbol_name);
	for (i = LEVEL_PTE; i < NR_LEVELS; i++)
		seq_printf(m, " %s=%d", gfpprobe_level_names[i], table_probed[i]);
	seq_printf(m, "\ntest gfp=%#x seen=%#x times=%u\n", (__force unsigned int)TEST_GFP,
		   (__force unsigned int)test_seen_gfp, test_seen);
}
