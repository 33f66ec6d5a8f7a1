// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A page of an object is given to the network, which copies nothing and takes a
 * reference: here to a pair of sockets of the probe's. The object may be given back
 * before the network is done with the page, as users of SPL do it.
 */
#include <linux/bvec.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <linux/version.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "slabprobe.h"
#include "work.h"

static struct socket *pair[2];
static DEFINE_MUTEX(pair_lock);	/* taken while something is on its way */

static int make_pair(void)
{
	int i, err;

	for (i = 0; i < 2 && !pair[i]; i++) {
		err = sock_create_kern(&init_net, AF_UNIX, SOCK_STREAM, 0, &pair[i]);
		if (err) {
			pair[i] = NULL;
			return err;
		}
		if (i)
			return pair[0]->ops->socketpair(pair[0], pair[1]);
	}
	return 0;
}

static int send(struct page *page, unsigned int offset, size_t size)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	return kernel_sendpage(pair[0], page, offset, size, MSG_DONTWAIT);
#else
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_SPLICE_PAGES };
	struct bio_vec part;

	bvec_set_page(&part, page, size, offset);
	iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, &part, 1, size);
	return sock_sendmsg(pair[0], &msg);
#endif
}

/* False: it did not come about, because another one is on its way, or there is no room. */
bool probe_send(const u64 *word)
{
	if (!mutex_trylock(&pair_lock))
		return false;
	if (!make_pair() && send(virt_to_page(word), offset_in_page(word), sizeof(*word)) == sizeof(*word))
		return true;
	mutex_unlock(&pair_lock);
	return false;
}

/* What came of what was sent last; that of no word if nothing did. */
u64 probe_receive(void)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT };
	u64 word = 0;
	struct kvec into = { .iov_base = &word, .iov_len = sizeof(word) };

	if (kernel_recvmsg(pair[1], &msg, &into, 1, sizeof(word), MSG_DONTWAIT) != sizeof(word))
		word = 0;
	mutex_unlock(&pair_lock);
	return word;
}

void probe_send_exit(void)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (pair[i])
			sock_release(pair[i]);
		pair[i] = NULL;
	}
}
