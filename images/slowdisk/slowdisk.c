// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Disks in the guest's own time: their data lie in memory that was set aside
 * when the kernel started (memmap=SIZE$START), so that they take nothing of the
 * memory that the guest allocates from; and a timer of the guest's answers, so
 * that nothing of the host's decides when.
 *
 * A disk serves one request after the other. Each takes the time of its bytes
 * at the disk's speed, and a fixed time besides if it does not begin where the
 * last one ended. That holds whoever asks: a process, kswapd, a kworker, a
 * thread of ZFS. If so many wait already as a queue of virtio_blk has, whoever
 * asks waits too. To serve a request needs no memory.
 *
 * The disks lie one behind the other. They are /dev/vda, /dev/vdb and so on, as
 * those of virtio_blk in a guest that has disks of the host's.
 */
#include <linux/blkdev.h>
#include <linux/bio.h>
#include <linux/hrtimer.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/numa.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/wait.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 18, 0)
#include <linux/genhd.h>
#endif

#define MAX_DISKS	8
/* Of one disk: itself, and its partitions. */
#define MINORS		16
/* Requests that wait at a disk, give or take one for each CPU. */
#define MOST_WAITING	256

static unsigned long at;
module_param(at, ulong, 0444);
MODULE_PARM_DESC(at, "physical address of the first disk");
static unsigned int mib[MAX_DISKS], nr_disks;
module_param_array(mib, uint, &nr_disks, 0444);
MODULE_PARM_DESC(mib, "size of each disk, MiB");
static unsigned int speed_mib[MAX_DISKS], nr_speeds;
module_param_array(speed_mib, uint, &nr_speeds, 0444);
MODULE_PARM_DESC(speed_mib, "speed of each disk, MiB/s");
static unsigned int request_us[MAX_DISKS], nr_requests;
module_param_array(request_us, uint, &nr_requests, 0444);
MODULE_PARM_DESC(request_us, "what a request takes besides that is not where the last one ended, us");

static struct disk {
	struct gendisk *gendisk;
	char *data;
	u64 bytes_per_s, request_ns;
	spinlock_t lock;		/* of the next three */
	struct bio_list waiting;	/* the first one is served */
	unsigned int nr_waiting;
	sector_t next;			/* where the last one that was begun ends */
	struct hrtimer timer;		/* goes off when the first one is done */
	wait_queue_head_t room;
} disks[MAX_DISKS];
static int major;

/* Begins to serve it: how long it takes. */
static ktime_t begin(struct disk *disk, const struct bio *bio)
{
	u64 ns = div64_u64((u64)bio->bi_iter.bi_size * NSEC_PER_SEC, disk->bytes_per_s);

	if (bio->bi_iter.bi_sector != disk->next)
		ns += disk->request_ns;
	disk->next = bio_end_sector(bio);
	return ns_to_ktime(ns);
}

static enum hrtimer_restart served(struct hrtimer *timer)
{
	struct disk *disk = container_of(timer, struct disk, timer);
	struct bio *done, *next;
	unsigned long flags;

	spin_lock_irqsave(&disk->lock, flags);
	done = bio_list_pop(&disk->waiting);
	disk->nr_waiting--;
	next = bio_list_peek(&disk->waiting);
	if (next)
		/* From when this one was done, however late it is seen. */
		hrtimer_forward_now(timer, begin(disk, next));
	spin_unlock_irqrestore(&disk->lock, flags);
	wake_up(&disk->room);
	bio_endio(done);
	return next ? HRTIMER_RESTART : HRTIMER_NORESTART;
}

/* The data are moved at once: nobody looks at them before the answer. */
static void move(const struct disk *disk, struct bio *bio)
{
	char *place = disk->data + (bio->bi_iter.bi_sector << SECTOR_SHIFT);
	struct bvec_iter iter;
	struct bio_vec part;

	bio_for_each_segment(part, bio, iter) {
		/* There is no high memory. */
		char *page = page_address(part.bv_page) + part.bv_offset;

		if (op_is_write(bio_op(bio)))
			memcpy(place, page, part.bv_len);
		else
			memcpy(page, place, part.bv_len);
		place += part.bv_len;
	}
}

static void serve(struct disk *disk, struct bio *bio)
{
	unsigned long flags;

	/* No other kind of request is asked of a disk that does not say it knows it. */
	if (bio_op(bio) != REQ_OP_READ && bio_op(bio) != REQ_OP_WRITE) {
		bio->bi_status = BLK_STS_NOTSUPP;
		bio_endio(bio);
		return;
	}
	move(disk, bio);
	wait_event(disk->room, READ_ONCE(disk->nr_waiting) < MOST_WAITING);
	spin_lock_irqsave(&disk->lock, flags);
	if (bio_list_empty(&disk->waiting))
		hrtimer_start(&disk->timer, begin(disk, bio), HRTIMER_MODE_REL_SOFT);
	bio_list_add(&disk->waiting, bio);
	disk->nr_waiting++;
	spin_unlock_irqrestore(&disk->lock, flags);
}

/* Linux commit 3e08773c3841 ("block: switch polling to be bio based") (in v5.16). */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 16, 0)
static void submit(struct bio *bio)
{
	serve(bio->bi_bdev->bd_disk->private_data, bio);
}
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(5, 12, 0)
static blk_qc_t submit(struct bio *bio)
{
	serve(bio->bi_bdev->bd_disk->private_data, bio);
	return BLK_QC_T_NONE;
}
#else
static blk_qc_t submit(struct bio *bio)
{
	serve(bio->bi_disk->private_data, bio);
	return BLK_QC_T_NONE;
}
#endif

static const struct block_device_operations operations = {
	.owner = THIS_MODULE,
	.submit_bio = submit,
};

/* NULL: there is no memory. */
static struct gendisk *make_gendisk(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	/* Linux commit 74fa8f9c553f ("block: pass a queue_limits argument to blk_alloc_disk") (in v6.9). */
	struct queue_limits limits = {
#ifdef BLK_FEAT_ROTATIONAL
		/* As virtio_blk's, and as it is by itself before v6.11. */
		.features = BLK_FEAT_ROTATIONAL,
#endif
	};
	struct gendisk *gendisk = blk_alloc_disk(&limits, NUMA_NO_NODE);

	if (IS_ERR(gendisk))
		return NULL;
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(5, 14, 0)
	struct gendisk *gendisk = blk_alloc_disk(NUMA_NO_NODE);

	if (!gendisk)
		return NULL;
#else
	struct gendisk *gendisk = alloc_disk(MINORS);

	if (!gendisk)
		return NULL;
	gendisk->queue = blk_alloc_queue(NUMA_NO_NODE);
	if (!gendisk->queue) {
		put_disk(gendisk);
		return NULL;
	}
#endif
	gendisk->minors = MINORS;
	return gendisk;
}

static int show(struct gendisk *gendisk)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 15, 0)
	return add_disk(gendisk);
#else
	add_disk(gendisk);
	return 0;
#endif
}

static void set_up_timer(struct hrtimer *timer)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	hrtimer_setup(timer, served, CLOCK_MONOTONIC, HRTIMER_MODE_REL_SOFT);
#else
	hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_SOFT);
	timer->function = served;
#endif
}

static int make_disk(unsigned int i, resource_size_t start)
{
	struct disk *disk = &disks[i];
	size_t len = (size_t)mib[i] * SZ_1M;
	int err;

	disk->bytes_per_s = (u64)speed_mib[i] * SZ_1M;
	disk->request_ns = (u64)request_us[i] * NSEC_PER_USEC;
	spin_lock_init(&disk->lock);
	bio_list_init(&disk->waiting);
	init_waitqueue_head(&disk->room);
	set_up_timer(&disk->timer);
	/* Memory that the kernel has for itself is no disk. */
	if (region_intersects(start, len, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT)
		return -EBUSY;
	disk->data = memremap(start, len, MEMREMAP_WB);
	if (!disk->data)
		return -ENXIO;
	disk->gendisk = make_gendisk();
	err = -ENOMEM;
	if (!disk->gendisk)
		goto unmap;
	disk->gendisk->major = major;
	disk->gendisk->first_minor = i * MINORS;
	disk->gendisk->fops = &operations;
	disk->gendisk->private_data = disk;
	snprintf(disk->gendisk->disk_name, DISK_NAME_LEN, "vd%c", 'a' + i);
	set_capacity(disk->gendisk, len >> SECTOR_SHIFT);
	err = show(disk->gendisk);
	if (err)
		goto put;
	pr_info("slowdisk: vd%c: %u MiB at %#llx, %u MiB/s, %u us a request\n",
		'a' + i, mib[i], (u64)start, speed_mib[i], request_us[i]);
	return 0;
put:
	put_disk(disk->gendisk);
unmap:
	memunmap(disk->data);
	return err;
}

static int __init slowdisk_init(void)
{
	resource_size_t start = at;
	unsigned int i;
	int err = 0;

	if (!nr_disks || nr_speeds != nr_disks || nr_requests != nr_disks || !at || at % PAGE_SIZE)
		return -EINVAL;
	for (i = 0; i < nr_disks; i++)
		if (!mib[i] || !speed_mib[i])
			return -EINVAL;
	major = register_blkdev(0, "slowdisk");
	if (major < 0)
		return major;
	for (i = 0; i < nr_disks; i++) {
		err = make_disk(i, start);
		if (err)
			break;
		start += (resource_size_t)mib[i] * SZ_1M;
	}
	if (!err)
		return 0;
	pr_err("slowdisk: vd%c: error %d\n", 'a' + i, err);
	/* Those before it are in use. */
	if (i)
		return 0;
	unregister_blkdev(major, "slowdisk");
	return err;
}

/* It has no exit: a disk is there for as long as its guest. */
module_init(slowdisk_init);
MODULE_DESCRIPTION("Disks in the guest's own time, in memory that was set aside");
MODULE_LICENSE("GPL");
