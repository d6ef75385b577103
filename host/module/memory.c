// SPDX-License-Identifier: GPL-2.0
/* The kernel's memory for the Host core: its heap, pages for realms, and memory of a VMM that is held in place. */

#include <linux/gfp.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "shim.h"

void *k_malloc(size_t size, size_t align, bool zeroed)
{
	gfp_t flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN | (zeroed ? __GFP_ZERO : 0);

	/* What kmalloc() aligns to a power of two is what has that size. */
	if (align > ARCH_KMALLOC_MINALIGN)
		size = roundup_pow_of_two(max(size, align));
	return kvmalloc(size, flags);
}

void k_free(void *memory)
{
	kvfree(memory);
}

/*
 * Not all memory can be delegated below every EL3: some refuse what is above 4 GiB. Once such a page came back, pages for
 * realms are taken from below. What is refused there as well is kept until the module goes, or it would come again.
 */
static bool only_low;
static LIST_HEAD(refused);
static atomic_t refused_pages = ATOMIC_INIT(0);
/* More of them are given back all the same, and may come again. */
#define MOST_REFUSED 4096
static DEFINE_SPINLOCK(refused_lock);

static gfp_t zone(void)
{
	return READ_ONCE(only_low) ? GFP_DMA32 : 0;
}

u64 k_alloc_pages(size_t pages, u32 purpose)
{
	unsigned int order = ilog2(pages);
	gfp_t flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN | zone();
	struct page *page;

	/* A block is a chance, not a need: nothing is reclaimed for it. */
	if (order > 0)
		flags |= __GFP_NORETRY;
	page = alloc_pages(flags, order);
	if (!page)
		return U64_MAX;
	/* Parts of it may come back alone. */
	if (order > 0)
		split_page(page, order);
	return page_to_phys(page);
}

void k_free_pages(u64 pa, size_t pages, bool is_refused)
{
	struct page *page = phys_to_page(pa);
	size_t i;

	if (is_refused && pa + pages * PAGE_SIZE > SZ_4G) {
		if (!xchg(&only_low, true))
			pr_warn("kvm-realm: the RMM refuses memory above 4 GiB; realms get what is below from now on\n");
	} else if (is_refused && atomic_add_return(pages, &refused_pages) <= MOST_REFUSED) {
		spin_lock(&refused_lock);
		for (i = 0; i < pages; i++)
			list_add(&page[i].lru, &refused);
		spin_unlock(&refused_lock);
		return;
	}
	for (i = 0; i < pages; i++)
		__free_page(page + i);
}

void realm_memory_exit(void)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &refused, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

void *k_mapped(u64 pa)
{
	return phys_to_virt(pa);
}

/* Whether these pages are one block, aligned as large as it is. */
static bool is_block(struct page **pages, size_t count)
{
	u64 pa = page_to_phys(pages[0]);
	size_t i;

	if (!IS_ALIGNED(pa, count * PAGE_SIZE))
		return false;
	for (i = 1; i < count; i++)
		if (page_to_phys(pages[i]) != pa + i * PAGE_SIZE)
			return false;
	return true;
}

/* Pins the block around addr, if its pages are one. */
static bool pin_block(u64 addr, u64 size, unsigned int flags, u64 *block)
{
	size_t count = size >> PAGE_SHIFT;
	struct page **pages;
	int pinned;
	bool whole = false;

	pages = kvmalloc_array(count, sizeof(*pages), GFP_KERNEL | __GFP_NOWARN);
	if (!pages)
		return false;
	pinned = pin_user_pages_fast(addr & ~(size - 1), count, flags, pages);
	if (pinned == count && is_block(pages, count)) {
		block[0] = page_to_phys(pages[0]);
		block[1] = size;
		whole = true;
	} else if (pinned > 0) {
		unpin_user_pages(pages, pinned);
	}
	kvfree(pages);
	return whole;
}

int k_pin(u64 addr, u64 most, bool lasting, u64 *block)
{
	unsigned int flags = FOLL_WRITE | (lasting ? FOLL_LONGTERM : 0);
	struct page *page;
	int pinned;

	/* From user space these are what they look like: a tag is not part of an address. */
	addr = untagged_addr(addr);
	pinned = pin_user_pages_fast(addr, 1, flags, &page);
	if (pinned != 1)
		return pinned == -ENOMEM ? -ENOMEM : -EFAULT;
	if (most > PAGE_SIZE && PageCompound(page) && page_size(compound_head(page)) >= most &&
	    IS_ALIGNED(page_to_phys(page) - addr, most) && pin_block(addr, most, flags, block)) {
		unpin_user_page(page);
		return 0;
	}
	block[0] = page_to_phys(page);
	block[1] = PAGE_SIZE;
	return 0;
}

void k_unpin(u64 pa, u64 size)
{
	/* The realm may have written to it. */
	unpin_user_page_range_dirty_lock(phys_to_page(pa), size >> PAGE_SHIFT, true);
}
