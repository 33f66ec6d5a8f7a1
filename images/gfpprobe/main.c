// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The trials, all made while the module is loaded, and /proc/gfpprobe with what
 * they showed. The format is in docs/formats.md.
 *
 * Each trial allocates by vmalloc with one set of flags, or within one scope:
 * once with an area of its own in which no table is there that the kernel makes
 * at run time, and once through __vmalloc() itself, which only the tables of the
 * lowest level can be awaited of. The control may do everything: if it is not
 * seen to, the others prove nothing.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/numa.h>
#include <linux/proc_fs.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/utsname.h>
#include <linux/vmalloc.h>

#include "gfpprobe.h"

/* Each spans the border of two PTE tables; a few of them are sure to need one that is not there. */
#define DIRECT_SIZE	SZ_2M
#define NR_DIRECT	16

typedef void *(*vmalloc_range_t)(unsigned long size, unsigned long align, unsigned long start, unsigned long end,
				 gfp_t gfp, pgprot_t prot, unsigned long vm_flags, int node, const void *caller);

/* It got _noprof with Linux commit 88ae5fb755b0 (in v6.10). */
static const char * const range_names[] = { "__vmalloc_node_range_noprof", "__vmalloc_node_range", NULL };
static vmalloc_range_t vmalloc_range;
static const char *range_name;

enum scope { SCOPE_NONE, SCOPE_NOFS, SCOPE_NOIO };
static const char * const scope_names[] = { "none", "nofs", "noio" };

struct trial {
	const char *what;
	const char *entry;
	gfp_t gfp;
	enum scope scope;
	void (*run)(struct trial *trial);
	/* Filled by the trial. */
	int err;
	unsigned long addr;
	unsigned int before;
	unsigned int after;
	struct gfpprobe_seen seen;
};

static void run_range(struct trial *trial);
static void run_direct(struct trial *trial);

#define TRIAL(name, flags, within)	\
	{ .what = name, .entry = "range", .gfp = flags, .scope = within, .run = run_range },	\
	{ .what = name, .entry = "direct", .gfp = flags, .scope = within, .run = run_direct }

static struct trial trials[] = {
	TRIAL("control", GFP_KERNEL, SCOPE_NONE),
	TRIAL("nofs-flags", GFP_NOFS, SCOPE_NONE),
	TRIAL("noio-flags", GFP_NOIO, SCOPE_NONE),
	TRIAL("nofs-scope", GFP_KERNEL, SCOPE_NOFS),
	TRIAL("noio-scope", GFP_KERNEL, SCOPE_NOIO),
};

/*
 * Masks that the kernel may complain of, plain ones first: it may do so only
 * once. SPL converts KM_SLEEP of a marked thread into `spl`, and before 2.3 into
 * `spl-highmem` (kmem_flags_convert() and kv_alloc()).
 */
static const struct mask {
	const char *name;
	gfp_t gfp;
} masks[] = {
	{ "kernel", GFP_KERNEL },
	{ "nofs", GFP_NOFS },
	{ "noio", GFP_NOIO },
	{ "spl", GFP_NOIO | __GFP_NOWARN },
	{ "spl-highmem", GFP_NOIO | __GFP_NOWARN | __GFP_COMP | __GFP_HIGHMEM },
};
static int mask_errs[ARRAY_SIZE(masks)];

/* Held to the end, so that each trial gets other addresses than the one before. */
static void *held[ARRAY_SIZE(trials) * NR_DIRECT];
static unsigned int nr_held;

static unsigned int enter_scope(enum scope scope)
{
	return scope == SCOPE_NOFS ? memalloc_nofs_save() : scope == SCOPE_NOIO ? memalloc_noio_save() : 0;
}

static void leave_scope(enum scope scope, unsigned int flags)
{
	if (scope == SCOPE_NOFS)
		memalloc_nofs_restore(flags);
	else if (scope == SCOPE_NOIO)
		memalloc_noio_restore(flags);
}

static void run_range(struct trial *trial)
{
	unsigned long end, start = gfpprobe_fresh_area(&end);
	unsigned int flags;
	void *block;

	if (!start) {
		trial->err = -ENOSPC;
		return;
	}
	trial->before = gfpprobe_tables(start);
	flags = enter_scope(trial->scope);
	gfpprobe_watch_begin(&trial->seen);
	block = vmalloc_range(PAGE_SIZE, PAGE_SIZE, start, end, trial->gfp, PAGE_KERNEL, 0, NUMA_NO_NODE,
			      __builtin_return_address(0));
	gfpprobe_watch_end();
	leave_scope(trial->scope, flags);
	trial->addr = (unsigned long)block;
	trial->after = gfpprobe_tables(start);
	if (!block)
		trial->err = -ENOMEM;
	else if (trial->addr != start)
		trial->err = -EADDRINUSE;
	vfree(block);
}

static void run_direct(struct trial *trial)
{
	unsigned int i;

	for (i = 0; i < NR_DIRECT && !trial->seen.calls[LEVEL_PTE]; i++) {
		unsigned int flags = enter_scope(trial->scope);
		void *block;

		gfpprobe_watch_begin(&trial->seen);
		block = __vmalloc(DIRECT_SIZE, trial->gfp);
		gfpprobe_watch_end();
		leave_scope(trial->scope, flags);
		if (!block) {
			trial->err = -ENOMEM;
			return;
		}
		trial->addr = (unsigned long)block;
		held[nr_held++] = block;
	}
}

/* What the kernel says of a mask stands between these two lines on the console. */
static void try_masks(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(masks); i++) {
		void *block;

		pr_info(GFPPROBE_NAME ": mask %s begins\n", masks[i].name);
		block = __vmalloc(PAGE_SIZE, masks[i].gfp);
		pr_info(GFPPROBE_NAME ": mask %s ends\n", masks[i].name);
		if (!block)
			mask_errs[i] = -ENOMEM;
		vfree(block);
	}
}

static void show_trial(struct seq_file *m, unsigned int index)
{
	struct trial *trial = &trials[index];
	unsigned int i;

	seq_printf(m, "trial %u what=%s entry=%s gfp=%#x scope=%s err=%d address=%#lx lost=%u\n", index, trial->what,
		   trial->entry, (__force unsigned int)trial->gfp, scope_names[trial->scope], trial->err, trial->addr,
		   trial->seen.lost);
	for (i = LEVEL_PTE; i < NR_LEVELS; i++) {
		seq_printf(m, "level %u %s calls=%u", index, gfpprobe_level_names[i], trial->seen.calls[i]);
		if (trial->run == run_range)
			seq_printf(m, " before=%d after=%d", !!(trial->before & BIT(i)), !!(trial->after & BIT(i)));
		seq_putc(m, '\n');
	}
	for (i = 0; i < trial->seen.nr_allocs; i++) {
		struct gfpprobe_alloc *alloc = &trial->seen.allocs[i];

		seq_printf(m, "alloc %u %s gfp=%#x effective=%#x noio=%d nofs=%d count=%u\n", index,
			   gfpprobe_level_names[alloc->level], (__force unsigned int)alloc->gfp,
			   (__force unsigned int)alloc->effective, alloc->noio, alloc->nofs, alloc->count);
	}
}

static int report_show(struct seq_file *m, void *v)
{
	unsigned int i, allocs = 0;

	seq_printf(m, GFPPROBE_NAME " 1\nkernel release=%s paging_levels=%u\n", utsname()->release,
		   gfpprobe_paging_levels());
	seq_printf(m, "bits io=%#x fs=%#x\n", (__force unsigned int)__GFP_IO, (__force unsigned int)__GFP_FS);
	gfpprobe_watch_show(m);
	seq_printf(m, "entry range=%s direct=__vmalloc\n", range_name);
	for (i = 0; i < ARRAY_SIZE(trials); i++) {
		show_trial(m, i);
		allocs += trials[i].seen.nr_allocs;
	}
	for (i = 0; i < ARRAY_SIZE(masks); i++)
		seq_printf(m, "mask %u name=%s gfp=%#x err=%d\n", i, masks[i].name, (__force unsigned int)masks[i].gfp,
			   mask_errs[i]);
	seq_printf(m, "end trials=%zu allocs=%u masks=%zu\n", ARRAY_SIZE(trials), allocs, ARRAY_SIZE(masks));
	return 0;
}

static int __init gfpprobe_init(void)
{
	unsigned int i;
	int err;

	vmalloc_range = gfpprobe_function(range_names, &range_name);
	if (!vmalloc_range) {
		pr_err(GFPPROBE_NAME ": there is no %s\n", range_names[1]);
		return -ENOENT;
	}
	err = gfpprobe_watch_init();
	if (err)
		return err;
	pr_info(GFPPROBE_NAME ": begins\n");
	for (i = 0; i < ARRAY_SIZE(trials); i++)
		trials[i].run(&trials[i]);
	/* Nothing of the kernel is probed any more once the module is loaded. */
	gfpprobe_watch_exit();
	while (nr_held)
		vfree(held[--nr_held]);
	try_masks();
	pr_info(GFPPROBE_NAME ": ends\n");
	return proc_create_single(GFPPROBE_NAME, 0400, NULL, report_show) ? 0 : -ENOMEM;
}

static void __exit gfpprobe_exit(void)
{
	remove_proc_entry(GFPPROBE_NAME, NULL);
}

module_init(gfpprobe_init);
module_exit(gfpprobe_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The splvm authors");
MODULE_DESCRIPTION("With which flags vmalloc allocates its page tables");
