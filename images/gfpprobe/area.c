// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Addresses that nobody has used yet.
 *
 * A table of the vmalloc area stays once it is there, so each trial needs an
 * entry of the topmost table to itself: then every level is missing that the
 * kernel did not allocate at boot. On x86-64 that is one level less than there
 * are (Linux commit 6eb82f994026 ("x86/mm: Pre-allocate P4D/PUD pages for
 * vmalloc area") (in v5.9)), which is not relied on but looked at.
 */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>

#include "gfpprobe.h"

#ifndef CONFIG_X86_64
#error "only the page tables of x86-64 are known here"
#endif

unsigned int gfpprobe_paging_levels(void)
{
	return pgtable_l5_enabled() ? 5 : 4;
}

/*
 * Which tables an address of the vmalloc area already has, a bit for each level.
 * The kernel's half of every task's topmost table is the same, and never shrinks.
 */
unsigned int gfpprobe_tables(unsigned long addr)
{
	pgd_t *pgd = pgd_offset(current->mm, addr);
	unsigned int tables = 0;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;

	if (pgtable_l5_enabled()) {
		if (pgd_none(*pgd))
			return tables;
		tables |= BIT(LEVEL_P4D);
	}
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d))
		return tables;
	tables |= BIT(LEVEL_PUD);
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud))
		return tables;
	tables |= BIT(LEVEL_PMD);
	pmd = pmd_offset(pud, addr);
	if (pmd_none(*pmd))
		return tables;
	return tables | BIT(LEVEL_PTE);
}

/*
 * The first address of an area that has no PMD table, and its end; 0 if there is
 * none left. From the middle on: small mappings are made from the bottom up, and
 * those of the per-CPU allocator from the top down.
 */
unsigned long gfpprobe_fresh_area(unsigned long *end)
{
	unsigned long size = VMALLOC_END - VMALLOC_START;
	unsigned long addr = ALIGN(VMALLOC_START + size / 2, PGDIR_SIZE);

	for (; addr < VMALLOC_END && VMALLOC_END - addr >= PGDIR_SIZE; addr += PGDIR_SIZE) {
		if (gfpprobe_tables(addr) & BIT(LEVEL_PMD))
			continue;
		*end = addr + PGDIR_SIZE;
		return addr;
	}
	return 0;
}
