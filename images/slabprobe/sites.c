// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Allocation sites: every chain of calls from a function of SPL to the kernel's
 * allocator, with the mask as asked for and as the kernel takes it
 * (current_gfp_context()), and in whose thread.
 *
 * A hook on each allocator function that the kernel has sends calls here, if
 * there may be a frame of SPL in the stack: the words of the stack are looked
 * at first, because a walk costs more. Here a walk says what the chain is, and
 * where storm.c wants it the kernel's own reclaim comes before the allocation.
 *
 * Which argument of an allocator is the mask differs from kernel to kernel, so
 * it is found by trying: an allocation with a mask that nobody else uses.
 */
#include <linux/ftrace.h>
#include <linux/gfp.h>
#include <linux/jhash.h>
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/proc_fs.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

#include "slabprobe.h"
#include "hook.h"
#include "sites.h"

#define SITES_NAME	PROBE_NAME "_sites"
#define NR_SITES	1024
#define SITE_FRAMES	14
#define WALK_FRAMES	28
#define SITES_BITS	11
/* Words of a stack that are looked at for an address of the module. */
#define LOOK_BYTES	3072
/* Large enough for all sites, so that reading never allocates. */
#define SITES_LEN	(512 * 1024)

struct probe_site {
	u32 hash;			/* 0: free */
	unsigned int id;		/* by the names of its functions: the same in each run of a build */
	unsigned int hook;
	unsigned int nr;		/* frames, the last one is the module's */
	unsigned long frames[SITE_FRAMES];
	bool helper;			/* none of the frames is the module's: somebody of it waits */
	gfp_t asked, effective;
	unsigned int marks;		/* PF_MEMALLOC_NOIO and _NOFS of the thread */
	char thread[TASK_COMM_LEN];
	u64 calls, reclaims, declined, entered;
	unsigned int waiting;
	u64 atomic;			/* calls that may sleep where that is forbidden */
	unsigned int preempt;		/* the greatest preempt_count() */
	u64 least, most;		/* bytes */
};

static struct probe_site sites[NR_SITES];
static u16 buckets[1 << SITES_BITS];	/* index in sites plus one */
static unsigned int nr_sites;
static u64 nr_calls, nr_lost, nr_atomic;
static DEFINE_RAW_SPINLOCK(sites_lock);

static enum probe_sites_mode mode;
static char module_name[PROBE_MODULE_NAME_LEN];
static unsigned long text_start, text_end;	/* of the module */
static unsigned long own_start, own_end;
static atomic_t inside = ATOMIC_INIT(0);
static bool hooked;

/* How the size of an allocation is told. */
enum site_size { SIZE_NONE, SIZE_BYTES, SIZE_ORDER, SIZE_CACHE };

struct site_hook {
	const char *name;
	enum site_size how;
	unsigned int size_arg;
	void *replacement;
	unsigned long address;		/* 0: the kernel has no such function */
	unsigned long original;
	int gfp_arg;			/* -1: not known */
	int err;
};

/* The mask of the trials: nothing else uses it. */
#define TEST_GFP (GFP_NOWAIT | __GFP_NORETRY | __GFP_NOMEMALLOC | __GFP_ZERO | __GFP_HARDWALL)
static struct task_struct *tester;

static void at_site(struct site_hook *hook, const unsigned long *args, unsigned long parent,
		    unsigned long sp);

static __always_inline unsigned long divert_to(struct site_hook *hook, unsigned long a,
					       unsigned long b, unsigned long c,
					       unsigned long d, unsigned long e,
					       unsigned long f)
{
	unsigned long (*original)(unsigned long, unsigned long, unsigned long, unsigned long,
				  unsigned long, unsigned long) =
		(void *)READ_ONCE(hook->original);
	unsigned long args[] = { a, b, c, d }, value;

	atomic_inc(&inside);
	at_site(hook, args, (unsigned long)__builtin_return_address(0),
		(unsigned long)__builtin_frame_address(0));
	value = original(a, b, c, d, e, f);
	atomic_dec(&inside);
	return value;
}

/*
 * Allocators take six arguments at most, all of them whole registers, and give
 * back a register or less, so one shape fits all.
 */
static struct site_hook hooks[];

#define REPLACEMENT(n)									\
	static unsigned long slabprobe_site_##n(unsigned long a, unsigned long b,	\
						unsigned long c, unsigned long d,	\
						unsigned long e, unsigned long f)	\
	{										\
		return divert_to(&hooks[n], a, b, c, d, e, f);				\
	}

REPLACEMENT(0)
REPLACEMENT(1)
REPLACEMENT(2)
REPLACEMENT(3)
REPLACEMENT(4)
REPLACEMENT(5)
REPLACEMENT(6)
REPLACEMENT(7)
REPLACEMENT(8)
REPLACEMENT(9)
REPLACEMENT(10)
REPLACEMENT(11)
REPLACEMENT(12)
REPLACEMENT(13)
REPLACEMENT(14)
REPLACEMENT(15)
REPLACEMENT(16)
REPLACEMENT(17)
REPLACEMENT(18)
REPLACEMENT(19)
REPLACEMENT(20)
REPLACEMENT(21)
REPLACEMENT(22)
REPLACEMENT(23)

#define HOOK(n, function, how, arg) [n] = { function, how, arg, slabprobe_site_##n }

/*
 * What ends in one of these is seen there: kvmalloc(), __vmalloc() and page
 * tables too. Names and the one that is innermost have changed; what a kernel
 * does not have is left out. Linux commits 84172f4bb752 (in v5.13), 7bd230a26648
 * (in v6.10), 49249a2a5eeb (in v6.14).
 */
#define PAGE_HOOKS 4
static struct site_hook hooks[] = {
	HOOK(0, "__alloc_frozen_pages_noprof", SIZE_ORDER, 1),
	HOOK(1, "__alloc_pages_noprof", SIZE_ORDER, 1),
	HOOK(2, "__alloc_pages", SIZE_ORDER, 1),
	HOOK(3, "__alloc_pages_nodemask", SIZE_ORDER, 1),
	HOOK(4, "alloc_pages_bulk_noprof", SIZE_NONE, 0),
	HOOK(5, "__alloc_pages_bulk", SIZE_NONE, 0),
	HOOK(6, "kmem_cache_alloc", SIZE_CACHE, 0),
	HOOK(7, "kmem_cache_alloc_noprof", SIZE_CACHE, 0),
	HOOK(8, "kmem_cache_alloc_lru", SIZE_CACHE, 0),
	HOOK(9, "kmem_cache_alloc_lru_noprof", SIZE_CACHE, 0),
	HOOK(10, "kmem_cache_alloc_node", SIZE_CACHE, 0),
	HOOK(11, "kmem_cache_alloc_node_noprof", SIZE_CACHE, 0),
	HOOK(12, "kmem_cache_alloc_trace", SIZE_CACHE, 0),
	HOOK(13, "kmalloc_trace", SIZE_CACHE, 0),
	HOOK(14, "__kmalloc_cache_noprof", SIZE_CACHE, 0),
	HOOK(15, "__kmalloc_cache_node_noprof", SIZE_CACHE, 0),
	HOOK(16, "__kmalloc", SIZE_BYTES, 0),
	HOOK(17, "__kmalloc_noprof", SIZE_BYTES, 0),
	HOOK(18, "__kmalloc_node", SIZE_BYTES, 0),
	HOOK(19, "__kmalloc_node_noprof", SIZE_BYTES, 0),
	HOOK(20, "__kmalloc_node_track_caller", SIZE_BYTES, 0),
	HOOK(21, "__kmalloc_node_track_caller_noprof", SIZE_BYTES, 0),
	HOOK(22, "__kmalloc_track_caller", SIZE_BYTES, 0),
	HOOK(23, "kmem_cache_alloc_node_trace", SIZE_CACHE, 0),
};

static notrace bool of_module(unsigned long address)
{
	return address - text_start < text_end - text_start;
}

bool probe_sites_owns(unsigned long address)
{
	return of_module(address);
}

/* kthreadd makes threads for those who wait for them: their marks do not go along. */
static notrace bool is_helper(void)
{
	return in_task() && task_pid_nr(current) == 2;
}

/*
 * The first word on the stack that may be a return address to the module, 0: there
 * is none. What is left there of old calls counts too.
 */
static notrace __no_sanitize_address unsigned long find_module_word(unsigned long sp, unsigned long parent)
{
	unsigned long bottom = (unsigned long)task_stack_page(current), end, at;

	if (of_module(parent))
		return parent;
	if (sp - bottom >= THREAD_SIZE)
		return 0;
	end = min(bottom + THREAD_SIZE, sp + LOOK_BYTES);
	for (at = sp & ~7UL; at < end; at += sizeof(long)) {
		unsigned long word = READ_ONCE_NOCHECK(*(unsigned long *)at);

		if (of_module(word))
			return word;
	}
	return 0;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);
#else
static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct pt_regs *regs)
{
#endif
	unsigned int i;

	if (!regs || in_nmi())
		return;
	if (READ_ONCE(tester) != current) {
		/* Who reclaims already does not reclaim for its own needs. */
		if (READ_ONCE(mode) == PROBE_SITES_OFF || current->flags & PF_MEMALLOC)
			return;
		if (!is_helper() && !find_module_word(regs->sp, parent_ip))
			return;
	}
	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		if (hooks[i].address && ip - hooks[i].address < 16) {
			WRITE_ONCE(hooks[i].original, ip + MCOUNT_INSN_SIZE);
			regs->ip = (unsigned long)hooks[i].replacement;
			return;
		}
}

static struct ftrace_ops site_ops = {
	.func = divert,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY,
};

static u64 bytes_of(const struct site_hook *hook, const unsigned long *args)
{
	switch (hook->how) {
	case SIZE_BYTES:
		return args[hook->size_arg];
	case SIZE_ORDER:
		return (u64)PAGE_SIZE << (args[hook->size_arg] & 31);
	case SIZE_CACHE:
		return kmem_cache_size((struct kmem_cache *)args[hook->size_arg]);
	case SIZE_NONE:
		break;
	}
	return 0;
}

/* A thread's name without its number. */
static void name_thread(char *to)
{
	unsigned int i;

	if (!in_task()) {
		strscpy(to, "interrupt", TASK_COMM_LEN);
		return;
	}
	if (!(current->flags & PF_KTHREAD)) {
		strscpy(to, "user", TASK_COMM_LEN);
		return;
	}
	memcpy(to, current->comm, TASK_COMM_LEN);
	to[TASK_COMM_LEN - 1] = '\0';
	for (i = 0; to[i]; i++) {
		if (to[i] == '/' && i && strncmp(to, PROBE_NAME, i))
			to[i] = '\0';
		else if (to[i] <= ' ' || to[i] == '=' || to[i] > '~')
			to[i] = '_';
		if (!to[i])
			break;
	}
	while (i && ((to[i - 1] >= '0' && to[i - 1] <= '9') || to[i - 1] == '_' || to[i - 1] == '/'))
		to[--i] = '\0';
}

/*
 * The frames from the allocator's caller to the module's function; 0: none of them
 * is the module's. Those of the hooks are left out.
 */
static unsigned int walk(unsigned long *frames, bool helper)
{
	unsigned long all[WALK_FRAMES];
	unsigned int nr = stack_trace_save(all, WALK_FRAMES, 1), count = 0, i;

	for (i = 0; i < nr && count < SITE_FRAMES; i++) {
		if (all[i] - own_start < own_end - own_start)
			continue;
		frames[count++] = all[i];
		if (of_module(all[i]))
			return count;
	}
	return helper ? count : 0;
}

/* By names alone, so that it is the same in each run. Not fast: once for each site. */
static unsigned int name_hash(const struct probe_site *site)
{
	char name[KSYM_SYMBOL_LEN];
	u32 hash = jhash(hooks[site->hook].name, strlen(hooks[site->hook].name), 0);
	unsigned int i;

	for (i = 0; i < site->nr; i++) {
		int len = i + 1 < site->nr ? scnprintf(name, sizeof(name), "%ps", (void *)site->frames[i]) :
					     scnprintf(name, sizeof(name), "%pS", (void *)site->frames[i]);

		hash = jhash(name, len, hash);
	}
	hash = jhash(site->thread, strlen(site->thread), hash);
	return jhash_3words((__force u32)site->asked, (__force u32)site->effective, site->marks, hash);
}

/* With the lock held; NULL: there is no room. */
static struct probe_site *find_site(const struct probe_site *key)
{
	unsigned int bucket = key->hash & (ARRAY_SIZE(buckets) - 1);
	struct probe_site *site;

	for (; buckets[bucket]; bucket = (bucket + 1) & (ARRAY_SIZE(buckets) - 1)) {
		site = &sites[buckets[bucket] - 1];
		if (site->hash == key->hash && site->hook == key->hook && site->nr == key->nr &&
		    site->asked == key->asked && site->effective == key->effective &&
		    site->marks == key->marks && !strcmp(site->thread, key->thread) &&
		    !memcmp(site->frames, key->frames, key->nr * sizeof(*key->frames)))
			return site;
	}
	if (nr_sites == NR_SITES)
		return NULL;
	site = &sites[nr_sites++];
	*site = *key;
	buckets[bucket] = nr_sites;
	return site;
}

/*
 * Calls that were walked already: the same caller at the same depth of the stack,
 * with the same word of the module, mask and thread, is the same site. A walk
 * costs many times as much as the rest, above all in an emulated guest. Each is
 * walked again after some time, for a word may be left of an old call.
 */
#define NR_KNOWN	2048
#define KNOWN_CALLS	128

struct known_call {
	u32 hash;
	u16 site;			/* index in sites plus one, 0: not the module's */
	u16 calls;
};

static struct known_call known[NR_KNOWN];

static u32 call_hash(const struct site_hook *hook, unsigned long parent, unsigned long sp, gfp_t gfp)
{
	unsigned long words[] = {
		parent, (unsigned long)task_stack_page(current) + THREAD_SIZE - sp,
		find_module_word(sp, parent),
		(__force u32)gfp | (u64)(current->flags & (PF_MEMALLOC_NOIO | PF_MEMALLOC_NOFS)) << 32,
	};

	return jhash(words, sizeof(words), jhash(current->comm, TASK_COMM_LEN, hook - hooks)) | 1;
}

static bool may_not_sleep(void)
{
	/* Without CONFIG_PREEMPT_COUNT a lock that is held does not show. */
	return irqs_disabled() || preempt_count() || !in_task();
}

static bool try_mask(struct site_hook *hook, const unsigned long *args)
{
	unsigned int i;

	if (READ_ONCE(tester) != current)
		return false;
	for (i = 0; i < 4 && hook->gfp_arg < 0; i++)
		if ((u32)args[i] == (__force u32)TEST_GFP)
			hook->gfp_arg = i;
	return true;
}

/* What is the same each time that a call is made; false: it is not the module's. */
static bool walk_call(struct probe_site *key, const struct site_hook *hook, gfp_t gfp)
{
	key->helper = is_helper();
	key->nr = walk(key->frames, key->helper);
	if (!key->nr)
		return false;
	key->least = U64_MAX;
	key->hook = hook - hooks;
	key->asked = gfp;
	key->effective = current_gfp_context(gfp);
	key->marks = current->flags & (PF_MEMALLOC_NOIO | PF_MEMALLOC_NOFS);
	name_thread(key->thread);
	key->hash = jhash(key->frames, key->nr * sizeof(*key->frames),
			  jhash_3words((__force u32)key->asked, (__force u32)key->effective, key->marks,
				       jhash(key->thread, strlen(key->thread), key->hook))) | 1;
	return true;
}

static struct probe_site *site_of_call(const struct site_hook *hook, gfp_t gfp, unsigned long parent,
				       unsigned long sp)
{
	u32 hash = in_task() ? call_hash(hook, parent, sp, gfp) : 0;
	struct known_call *call = &known[hash % NR_KNOWN];
	struct probe_site key = { .hash = 0 }, *site = NULL;
	unsigned long irq;
	bool is_known;

	raw_spin_lock_irqsave(&sites_lock, irq);
	is_known = hash && call->hash == hash && call->calls;
	if (is_known) {
		call->calls--;
		site = call->site ? &sites[call->site - 1] : NULL;
	}
	raw_spin_unlock_irqrestore(&sites_lock, irq);
	if (is_known)
		return site;
	if (walk_call(&key, hook, gfp)) {
		raw_spin_lock_irqsave(&sites_lock, irq);
		site = find_site(&key);
		if (!site)
			nr_lost++;
		raw_spin_unlock_irqrestore(&sites_lock, irq);
		if (!site)
			return NULL;
	}
	if (hash) {
		raw_spin_lock_irqsave(&sites_lock, irq);
		*call = (struct known_call){ hash, site ? site - sites + 1 : 0, KNOWN_CALLS };
		raw_spin_unlock_irqrestore(&sites_lock, irq);
	}
	return site;
}

static void at_site(struct site_hook *hook, const unsigned long *args, unsigned long parent,
		    unsigned long sp)
{
	unsigned int preempt = preempt_count() & PREEMPT_MASK;
	bool sleeps, forbidden = may_not_sleep();
	struct probe_site *site;
	unsigned long irq;
	u64 bytes;
	gfp_t gfp;

	if (try_mask(hook, args) || hook->gfp_arg < 0)
		return;
	gfp = (__force gfp_t)args[hook->gfp_arg];
	site = site_of_call(hook, gfp, parent, sp);
	if (!site)
		return;
	sleeps = gfpflags_allow_blocking(site->effective);
	bytes = bytes_of(hook, args);
	raw_spin_lock_irqsave(&sites_lock, irq);
	nr_calls++;
	site->calls++;
	site->least = min(site->least, bytes);
	site->most = max(site->most, bytes);
	site->preempt = max(site->preempt, preempt);
	if (sleeps && forbidden) {
		site->atomic++;
		nr_atomic++;
	}
	raw_spin_unlock_irqrestore(&sites_lock, irq);

	if (sleeps && !forbidden && !(current->flags & PF_EXITING) &&
	    probe_storm_wants(site->helper, site->frames[site->nr - 1])) {
		raw_spin_lock_irqsave(&sites_lock, irq);
		site->reclaims++;
		raw_spin_unlock_irqrestore(&sites_lock, irq);
		probe_storm_reclaim(site, gfp);
	}
}

void probe_site_declined(struct probe_site *site)
{
	unsigned long irq;

	raw_spin_lock_irqsave(&sites_lock, irq);
	site->declined++;
	raw_spin_unlock_irqrestore(&sites_lock, irq);
}

void probe_site_entered(struct probe_site *site)
{
	unsigned long irq;

	raw_spin_lock_irqsave(&sites_lock, irq);
	site->entered++;
	site->waiting++;
	raw_spin_unlock_irqrestore(&sites_lock, irq);
}

void probe_site_left(struct probe_site *site)
{
	unsigned long irq;

	raw_spin_lock_irqsave(&sites_lock, irq);
	site->waiting--;
	raw_spin_unlock_irqrestore(&sites_lock, irq);
}

unsigned int probe_site_id(const struct probe_site *site)
{
	return site - sites;
}

/* Each allocator is called once or more with the mask of the trials, by the ways that there are. */
static noinline void try_all(void)
{
	struct kmem_cache *cache = kmem_cache_create(SITES_NAME, 192, 0, 0, NULL);
	volatile size_t some = 100;
	struct page *page;
	void *object;

	WRITE_ONCE(tester, current);
	page = alloc_pages(TEST_GFP, 0);
	if (page)
		__free_pages(page, 0);
	kfree(kmalloc(some, TEST_GFP));
	kfree(kmalloc(64, TEST_GFP));
	kfree(kmalloc_node(some, TEST_GFP, NUMA_NO_NODE));
	kfree(kmalloc_node(some, TEST_GFP, 0));
	kfree(kmalloc_node(64, TEST_GFP, 0));
	kfree(kmalloc_node_track_caller(some, TEST_GFP, 0));
	kfree(kstrdup("slabprobe", TEST_GFP));
	kfree(kasprintf(TEST_GFP, "%s", "slabprobe"));
	if (cache) {
		object = kmem_cache_alloc(cache, TEST_GFP);
		if (object)
			kmem_cache_free(cache, object);
		object = kmem_cache_alloc_node(cache, TEST_GFP, 0);
		if (object)
			kmem_cache_free(cache, object);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 18, 0)
		object = kmem_cache_alloc_lru(cache, NULL, TEST_GFP);
		if (object)
			kmem_cache_free(cache, object);
#endif
	}
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0)
	{
		struct page *pages[2] = { NULL };
		unsigned int i;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
		alloc_pages_bulk(TEST_GFP, 2, pages);
#else
		alloc_pages_bulk_array(TEST_GFP, 2, pages);
#endif
		for (i = 0; i < 2; i++)
			if (pages[i])
				__free_page(pages[i]);
	}
#endif
	WRITE_ONCE(tester, NULL);
	kmem_cache_destroy(cache);
}

static int hook_all(void)
{
	bool first = true, has_pages = false;
	unsigned int i;
	int err;

	if (hooked)
		return 0;
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct site_hook *hook = &hooks[i];

		hook->gfp_arg = -1;
		hook->address = probe_find_function(hook->name);
		if (!hook->address)
			continue;
		/* Of the page allocator's the innermost is enough. */
		if (i < PAGE_HOOKS && has_pages) {
			hook->address = 0;
			continue;
		}
		has_pages = has_pages || i < PAGE_HOOKS;
		hook->err = ftrace_set_filter(&site_ops, (unsigned char *)hook->name,
					      strlen(hook->name), first);
		if (hook->err)
			pr_err(PROBE_NAME ": cannot watch %s: %d\n", hook->name, hook->err);
		else
			first = false;
	}
	err = first ? -ENOENT : register_ftrace_function(&site_ops);
	if (err) {
		pr_err(PROBE_NAME ": cannot watch the allocator: %d\n", err);
		for (i = 0; i < ARRAY_SIZE(hooks); i++)
			hooks[i].err = hooks[i].err ?: err;
		return err;
	}
	hooked = true;
	try_all();
	return 0;
}

/*
 * Where the text of a module is. The list is that of all modules; its head, which
 * is none, is passed over because it does not have the name.
 */
static int find_module_text(const char *name)
{
	struct module *own = THIS_MODULE, *module;
	int err = -ENOENT;

	rcu_read_lock();
	list_for_each_entry_rcu(module, &own->list, list) {
		if (module == own)
			break;
		if (strncmp(module->name, name, sizeof(module->name)))
			continue;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
		text_start = (unsigned long)module->mem[MOD_TEXT].base;
		text_end = text_start + module->mem[MOD_TEXT].size;
#else
		text_start = (unsigned long)module->core_layout.base;
		text_end = text_start + module->core_layout.text_size;
#endif
		err = 0;
		break;
	}
	rcu_read_unlock();
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	own_start = (unsigned long)own->mem[MOD_TEXT].base;
	own_end = own_start + own->mem[MOD_TEXT].size;
#else
	own_start = (unsigned long)own->core_layout.base;
	own_end = own_start + own->core_layout.text_size;
#endif
	return err;
}

int probe_sites_set(enum probe_sites_mode wish, const char *module)
{
	int err;

	if (wish == PROBE_SITES_OFF) {
		WRITE_ONCE(mode, wish);
		return 0;
	}
	if (strlen(module) >= sizeof(module_name))
		return -EINVAL;
	if (nr_sites && strcmp(module, module_name))
		return -EBUSY;
	err = find_module_text(module);
	if (err)
		return err;
	strscpy(module_name, module, sizeof(module_name));
	err = hook_all();
	if (!err)
		WRITE_ONCE(mode, wish);
	return err;
}

void probe_sites_show_status(struct seq_file *m)
{
	unsigned int i, set = 0, blind = 0;

	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		set += hooked && hooks[i].address && !hooks[i].err && hooks[i].gfp_arg >= 0;
		blind += hooks[i].address && (hooks[i].err || hooks[i].gfp_arg < 0);
	}
	seq_printf(m, "sites mode=%s module=%s hooks=%u blind=%u count=%u calls=%llu lost=%llu atomic=%llu preempt_count=%d\n",
		   READ_ONCE(mode) == PROBE_SITES_OFF ? "off" : "count",
		   module_name[0] ? module_name : "-", set, blind, READ_ONCE(nr_sites),
		   READ_ONCE(nr_calls), READ_ONCE(nr_lost), READ_ONCE(nr_atomic),
		   IS_ENABLED(CONFIG_PREEMPT_COUNT));
}

static void show_if(struct seq_file *m, const char *name, u64 value)
{
	if (value)
		seq_printf(m, " %s=%llu", name, value);
}

static void show_site(struct seq_file *m, struct probe_site *site)
{
	unsigned int i;

	if (!site->id)
		site->id = name_hash(site);
	seq_printf(m, "site %u id=%08x thread=%s asked=%#x effective=%#x calls=%llu reclaims=%llu most=%llu",
		   (unsigned int)(site - sites), site->id, site->thread,
		   (__force unsigned int)site->asked, (__force unsigned int)site->effective,
		   site->calls, site->reclaims, site->most);
	/* There are two hundred of them, and the agent takes 64 KiB: what is 0 is left out. */
	show_if(m, "helper", site->helper);
	show_if(m, "noio", !!(site->marks & PF_MEMALLOC_NOIO));
	show_if(m, "nofs", !!(site->marks & PF_MEMALLOC_NOFS));
	show_if(m, "declined", site->declined);
	show_if(m, "entered", site->entered);
	show_if(m, "waiting", site->waiting);
	show_if(m, "atomic", site->atomic);
	show_if(m, "preempt", site->preempt);
	show_if(m, "least", site->least == site->most ? 0 : site->least);
	seq_printf(m, " chain=%s", hooks[site->hook].name);
	for (i = 0; i < site->nr; i++)
		seq_printf(m, i + 1 < site->nr || site->helper ? "<%ps" : "<%pS", (void *)site->frames[i]);
	seq_putc(m, '\n');
}

static int sites_show(struct seq_file *m, void *v)
{
	unsigned int i, n = READ_ONCE(nr_sites);

	seq_puts(m, SITES_NAME " 1\n");
	seq_printf(m, "now_ns %llu\n", ktime_get_ns());
	seq_printf(m, "masks fs=%#x io=%#x reclaim=%#x\n", (__force unsigned int)__GFP_FS,
		   (__force unsigned int)__GFP_IO, (__force unsigned int)__GFP_DIRECT_RECLAIM);
	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		if (hooked && hooks[i].address)
			seq_printf(m, "hook %s gfp_arg=%d err=%d\n", hooks[i].name, hooks[i].gfp_arg,
				   hooks[i].err);
	for (i = 0; i < n; i++)
		show_site(m, &sites[i]);
	seq_puts(m, "end\n");
	return 0;
}

static int sites_open(struct inode *inode, struct file *file)
{
	return single_open_size(file, sites_show, NULL, SITES_LEN);
}

static const struct proc_ops sites_ops = {
	.proc_open = sites_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

int probe_sites_init(void)
{
	return proc_create(SITES_NAME, 0400, NULL, &sites_ops) ? 0 : -ENOMEM;
}

/* Who is inside is in an allocation; storm.c has let go whom it holds. */
void probe_sites_exit(void)
{
	remove_proc_entry(SITES_NAME, NULL);
	WRITE_ONCE(mode, PROBE_SITES_OFF);
	if (!hooked)
		return;
	unregister_ftrace_function(&site_ops);
	ftrace_set_filter(&site_ops, NULL, 0, 1);
	synchronize_rcu_tasks();
	while (atomic_read(&inside))
		schedule_timeout_uninterruptible(1);
	synchronize_rcu_tasks();
}
