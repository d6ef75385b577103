// SPDX-License-Identifier: GPL-2.0
/*
 * A test: reads all of the kernel's linear map for a secret, as a curious host would, and tells how often it is there. Loading it fails
 * on purpose: its work is done then.
 */

#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

/* What it is compared with must not be found itself: each byte is XORed with this. */
#define MASK 0xa5
#define MOST 64

static char *masked = "";
module_param(masked, charp, 0);
MODULE_PARM_DESC(masked, "the secret, XORed, in hexadecimal digits");
static unsigned long base;
module_param(base, ulong, 0);
static unsigned long end;
module_param(end, ulong, 0);

static bool is_here(const u8 *at, const u8 *secret, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		if ((at[i] ^ MASK) != secret[i])
			return false;
	return true;
}

static int __init peek_init(void)
{
	unsigned long found = 0, read = 0, refused = 0, pa;
	size_t size = strlen(masked) / 2, at;
	u8 secret[MOST];
	u8 *page = kmalloc(PAGE_SIZE, GFP_KERNEL);

	if (!page || size < 16 || size > MOST || hex2bin(secret, masked, size)) {
		kfree(page);
		return -EINVAL;
	}
	for (pa = PAGE_ALIGN(base); pa + PAGE_SIZE <= end; pa += PAGE_SIZE) {
		/* Not its own copy of what it reads. */
		if (!pfn_is_map_memory(PHYS_PFN(pa)) || pa == virt_to_phys(page))
			continue;
		if (copy_from_kernel_nofault(page, phys_to_virt(pa), PAGE_SIZE)) {
			refused++;
			continue;
		}
		read++;
		for (at = 0; at + size <= PAGE_SIZE; at++) {
			u8 *next = memchr(page + at, secret[0] ^ MASK, PAGE_SIZE - size + 1 - at);

			if (!next)
				break;
			at = next - page;
			found += is_here(next, secret, size);
		}
		cond_resched();
	}
	memzero_explicit(page, PAGE_SIZE);
	kfree(page);
	pr_info("realm-peek: found %lu read %lu refused %lu\n", found, read, refused);
	return -ECANCELED;
}
module_init(peek_init);

MODULE_DESCRIPTION("Looks for a secret in all memory");
MODULE_LICENSE("GPL");
