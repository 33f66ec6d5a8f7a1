/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SLABPROBE_EXPLORE_H
#define SLABPROBE_EXPLORE_H

#include <linux/seq_file.h>

/* explore.c; the caller of the command and of show holds the lock of main.c */
void probe_explore_init(void);
void probe_explore_exit(void);
int probe_explore_command(char *args);
void probe_explore_show(struct seq_file *m);

#endif
