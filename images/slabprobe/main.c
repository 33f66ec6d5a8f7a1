// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * /proc/slabprobe: status and commands. The format is in docs/formats.md.
 *
 * It is in proc and not in debugfs so that it is there on every kernel, also on
 * one that is locked down, and that a file held open does not pin the module.
 */
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "slabprobe.h"
#include "sites.h"
#include "explore.h"
#include "work.h"

#define NR_MARKS	32
#define MARK_LEN	32
#define COMMAND_LEN	256
/* Large enough for PROBE_MAX_THREADS, so that reading never allocates. */
#define STATUS_LEN	(32 * 1024)

struct mark {
	u64 time_ns;
	char name[MARK_LEN];
};

/* Protects the set of threads, their configuration and the marks. */
static DEFINE_MUTEX(probe_lock);
static struct mark marks[NR_MARKS];
static unsigned int nr_marks;

static int cmd_set(char *args)
{
	struct probe_config wish;
	char *word;

	probe_threads_config(&wish);
	while ((word = strsep(&args, " ")) != NULL) {
		char *key = strsep(&word, "=");
		unsigned int value;

		if (!*key)
			continue;
		if (!word || kstrtouint(word, 0, &value))
			return -EINVAL;
		if (!strcmp(key, "threads"))
			wish.threads = value;
		else if (!strcmp(key, "objects"))
			wish.objects = value;
		else if (!strcmp(key, "size"))
			wish.size = value;
		else if (!strcmp(key, "pause_us"))
			wish.pause_us = value;
		else if (!strcmp(key, "reap_rounds"))
			wish.reap_rounds = value;
		else if (!strcmp(key, "commits"))
			wish.commits = value;
		else if (!strcmp(key, "noio"))
			wish.noio = value;
		else if (!strcmp(key, "keep"))
			wish.keep = value;
		else
			return -EINVAL;
	}
	return probe_threads_set(&wish);
}

static int cmd_start(char *args)
{
	return probe_threads_start();
}

static int cmd_stop(char *args)
{
	return probe_threads_want(PROBE_STOPPED);
}

static int cmd_park(char *args)
{
	return probe_threads_want(PROBE_PARKED);
}

static int cmd_resume(char *args)
{
	return probe_threads_want(PROBE_RUNNING);
}

static int cmd_hold(char *args)
{
	if (args && strcmp(args, "own"))
		return -EINVAL;
	probe_hold(args);
	return 0;
}

static int cmd_release(char *args)
{
	probe_release();
	return 0;
}

static int cmd_trap(char *args)
{
	struct probe_config config;

	probe_threads_config(&config);
	if (args && !strcmp(args, "induced"))
		return probe_trap_set(PROBE_TRAP_INDUCED, config.commits);
	if (args && !strcmp(args, "organic"))
		return probe_trap_set(PROBE_TRAP_ORGANIC, config.commits);
	if (args && !strcmp(args, "off"))
		return probe_trap_set(PROBE_TRAP_OFF, 0);
	return -EINVAL;
}

static int cmd_pressure(char *args)
{
	if (args && (!strcmp(args, "on") || !strcmp(args, "off")))
		return probe_pressure_set(!strcmp(args, "on"));
	return -EINVAL;
}

static int cmd_fail(char *args)
{
	if (args && !strcmp(args, "grow"))
		return probe_fail_set(PROBE_FAIL_GROW);
	if (args && !strcmp(args, "emergency"))
		return probe_fail_set(PROBE_FAIL_EMERGENCY);
	if (args && !strcmp(args, "off"))
		return probe_fail_set(PROBE_FAIL_OFF);
	return -EINVAL;
}

static int cmd_fragment(char *args)
{
	unsigned int mib;

	if (args && !strcmp(args, "pinned"))
		return probe_fragment_pinned();
	if (!args || kstrtouint(args, 0, &mib))
		return -EINVAL;
	if (mib)
		return probe_fragment(mib);
	probe_fragment_end();
	return 0;
}

static int cmd_mark(char *args)
{
	struct mark *mark = &marks[nr_marks % NR_MARKS];

	if (!args || !*args || strchr(args, ' '))
		return -EINVAL;
	strscpy(mark->name, args, sizeof(mark->name));
	mark->time_ns = ktime_get_ns();
	nr_marks++;
	probe_threads_mark();
	return 0;
}

static int cmd_sites(char *args)
{
	char *word = strsep(&args, " ");

	if (word && !strcmp(word, "on"))
		return probe_sites_set(PROBE_SITES_COUNT, args && *args ? args : "spl");
	if (word && !strcmp(word, "off"))
		return probe_sites_set(PROBE_SITES_OFF, NULL);
	return -EINVAL;
}

static int set_storm(char *args)
{
	struct probe_storm_config wish;
	char *word;

	probe_storm_config(&wish);
	while ((word = strsep(&args, " ")) != NULL) {
		char *key = strsep(&word, "=");
		unsigned int value;

		if (!*key)
			continue;
		if (!word || kstrtouint(word, 0, &value))
			return -EINVAL;
		if (!strcmp(key, "ops"))
			wish.ops = value;
		else if (!strcmp(key, "rate"))
			wish.rate = value;
		else if (!strcmp(key, "trap"))
			wish.trap = value;
		else if (!strcmp(key, "mark"))
			wish.mark = value;
		else if (!strcmp(key, "helpers"))
			wish.helpers = value;
		else if (!strcmp(key, "threads"))
			wish.threads = value;
		else if (!strcmp(key, "how"))
			wish.how = value;
		else if (!strcmp(key, "seed"))
			wish.seed = value;
		else
			return -EINVAL;
	}
	return probe_storm_set(&wish);
}

/* FUNCTION+OFFSET, or nothing for everywhere. */
static int cmd_only(char *args)
{
	char *function = args ? strsep(&args, "+") : NULL;
	unsigned int offset;

	if (!function)
		return probe_storm_only(NULL, 0);
	if (!args || kstrtouint(args, 0, &offset))
		return -EINVAL;
	return probe_storm_only(function, offset);
}

static int cmd_storm(char *args)
{
	char *word = strsep(&args, " ");

	if (word && !strcmp(word, "set"))
		return set_storm(args);
	if (word && !strcmp(word, "only"))
		return cmd_only(args);
	if (word && !strcmp(word, "start"))
		return probe_storm_start();
	if (!word || strcmp(word, "stop"))
		return -EINVAL;
	probe_storm_stop();
	return 0;
}

static enum probe_work find_work(const char *name)
{
	enum probe_work state;

	for (state = PROBE_WORK_RUNNING; state <= PROBE_WORK_GONE; state++)
		if (name && !strcmp(name, probe_work_name(state)))
			return state;
	return PROBE_WORK_NONE;
}

static int cmd_queues(char *args)
{
	return probe_queues_want(find_work(args));
}

static int cmd_caches(char *args)
{
	return probe_caches_want(find_work(args));
}

static int cmd_memory(char *args)
{
	return probe_memory_want(find_work(args));
}

static int cmd_cpus(char *args)
{
	return probe_cpus_want(probe_cpus_find(args));
}

static const struct command {
	const char *name;
	int (*run)(char *args);
} commands[] = {
	{ "set", cmd_set },
	{ "start", cmd_start },
	{ "stop", cmd_stop },
	{ "park", cmd_park },
	{ "resume", cmd_resume },
	{ "hold", cmd_hold },
	{ "release", cmd_release },
	{ "trap", cmd_trap },
	{ "pressure", cmd_pressure },
	{ "fail", cmd_fail },
	{ "fragment", cmd_fragment },
	{ "sites", cmd_sites },
	{ "storm", cmd_storm },
	{ "explore", probe_explore_command },
	{ "queues", cmd_queues },
	{ "caches", cmd_caches },
	{ "memory", cmd_memory },
	{ "cpus", cmd_cpus },
	{ "mark", cmd_mark },
};

static int run_command(char *line)
{
	char *args = strim(line);
	char *name = strsep(&args, " ");
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name))
			return commands[i].run(args);
	return -EINVAL;
}

static ssize_t probe_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	char line[COMMAND_LEN];
	int err;

	if (len >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, buf, len))
		return -EFAULT;
	line[len] = '\0';
	mutex_lock(&probe_lock);
	err = run_command(line);
	mutex_unlock(&probe_lock);
	return err ? err : len;
}

static int probe_show(struct seq_file *m, void *v)
{
	struct probe_bits bits = probe_cache_bits();
	unsigned int i;

	mutex_lock(&probe_lock);
	seq_printf(m, PROBE_NAME " 1\nnow_ns %llu\n", ktime_get_ns());
	seq_printf(m, "bits kvmem=%#lx deadlocked=%#lx growing=%#lx reaping=%#lx\n",
		   bits.kvmem, bits.deadlocked, bits.growing, bits.reaping);
	/* What marks and masks of this kernel are read by. */
	seq_printf(m, "kernel noio=%#x io=%#x fs=%#x\n", PF_MEMALLOC_NOIO,
		   (__force unsigned int)__GFP_IO, (__force unsigned int)__GFP_FS);
	probe_hold_show(m);
	probe_cycle_show(m);
	probe_pressure_show(m);
	probe_fail_show(m);
	probe_growth_show(m);
	probe_threads_show(m);
	probe_kept_show(m);
	probe_fragment_show(m);
	probe_sites_show_status(m);
	probe_storm_show(m);
	probe_explore_show(m);
	probe_queues_show(m);
	probe_caches_show(m);
	probe_memory_show(m);
	probe_cpus_show(m);
	for (i = nr_marks > NR_MARKS ? nr_marks - NR_MARKS : 0; i < nr_marks; i++)
		seq_printf(m, "mark %u %llu %s\n", i, marks[i % NR_MARKS].time_ns,
			   marks[i % NR_MARKS].name);
	mutex_unlock(&probe_lock);
	return 0;
}

static int probe_open(struct inode *inode, struct file *file)
{
	return single_open_size(file, probe_show, NULL, STATUS_LEN);
}

static const struct proc_ops probe_ops = {
	.proc_open = probe_open,
	.proc_read = seq_read,
	.proc_write = probe_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static int __init slabprobe_init(void)
{
	int err = probe_hold_init();

	if (err)
		return err;
	err = probe_cycle_init();
	if (err)
		goto unhold;
	err = probe_pressure_init();
	if (err)
		goto uncycle;
	probe_growth_init();
	err = probe_sites_init();
	if (err)
		goto ungrowth;
	if (proc_create(PROBE_NAME, 0600, NULL, &probe_ops)) {
		probe_explore_init();
		return 0;
	}
	err = -ENOMEM;
	probe_sites_exit();
ungrowth:
	probe_growth_exit();
	probe_pressure_exit();
uncycle:
	probe_cycle_exit();
unhold:
	probe_hold_exit();
	return err;
}

/*
 * The worker is let go before the threads are stopped: they may be waiting for
 * it. The hooks go last, when no thread is left to ask for a growth.
 */
static void __exit slabprobe_exit(void)
{
	remove_proc_entry(PROBE_NAME, NULL);
	probe_explore_exit();
	probe_release();
	probe_trap_set(PROBE_TRAP_OFF, 0);
	probe_storm_exit();
	probe_cpus_exit();
	probe_queues_exit();
	probe_caches_exit();
	probe_memory_exit();
	probe_sites_exit();
	probe_pressure_exit();
	probe_fail_set(PROBE_FAIL_OFF);
	probe_threads_exit();
	probe_growth_exit();
	probe_fragment_end();
	probe_hold_exit();
	probe_fail_exit();
	probe_cycle_exit();
}

module_init(slabprobe_init);
module_exit(slabprobe_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The splvm authors");
MODULE_DESCRIPTION("Critical threads on an SPL slab cache, a lever on its worker, a trap for it, and low memory");
