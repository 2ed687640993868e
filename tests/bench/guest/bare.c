/* The least that the kernel allows: the same settings as the allocator's, and nothing beside them. Prints seconds.
 *
 *   bare touch MIB                          touch memory once, so that its first touch belongs to nobody
 *   bare pool NODE PAGES CPU...             make a pool and undo it, in the allocator's order, one step a line: pages,
 *                                           hold, offline, online, drop, give back
 *   bare fallocate NODE PAGES PART          of so many held pages, let a part go and allocate it again
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE (2UL << 20)
#define WHERE "/run/bare"
#define MPOL_BIND 2

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Prints the time since the last lap, and returns the time. */
static double lap(double last)
{
	double here = now();

	printf("%f\n", here - last);
	return here;
}

static void set(const char *path, long value)
{
	char text[32];
	int fd = open(path, O_WRONLY), length = sprintf(text, "%ld", value);

	if (fd < 0 || write(fd, text, length) != length)
		err(1, "%s", path);
	close(fd);
}

static void set_pages(long node, long pages)
{
	char path[128];

	sprintf(path, "/sys/devices/system/node/node%ld/hugepages/hugepages-2048kB/nr_hugepages", node);
	set(path, pages);
}

static void set_cpus(char **cpus, int online)
{
	char path[64];

	for (; *cpus; cpus++) {
		sprintf(path, "/sys/devices/system/cpu/cpu%s/online", *cpus);
		set(path, online);
	}
}

static int hold(long node, long pages)
{
	unsigned long mask = 1UL << node;
	char options[64];
	int fd;

	sprintf(options, "pagesize=2M,size=%ldM,min_size=%ldM", 2 * pages, 2 * pages);
	if (syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 64UL))
		err(1, "set_mempolicy");
	if (mkdir(WHERE, 0700) || mount("hugetlbfs", WHERE, "hugetlbfs", 0, options))
		err(1, "mount");
	fd = open(WHERE "/hold", O_RDWR | O_CREAT, 0600);
	if (fd < 0 || fallocate(fd, 0, 0, pages * PAGE))
		err(1, "hold %ld pages", pages);
	return fd;
}

static void drop(int fd)
{
	close(fd);
	if (umount(WHERE) || rmdir(WHERE))
		err(1, "unmount");
}

static void touch(long mib)
{
	char *memory = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	memset(memory, 1, mib << 20);
}

static void pool(long node, long pages, char **cpus)
{
	double last = now();
	int fd;

	set_pages(node, pages);
	last = lap(last);
	fd = hold(node, pages);
	last = lap(last);
	set_cpus(cpus, 0);
	last = lap(last);
	set_cpus(cpus, 1);
	last = lap(last);
	drop(fd);
	last = lap(last);
	set_pages(node, 0);
	lap(last);
}

static void again(long node, long pages, long part)
{
	double begin;
	int fd;

	set_pages(node, pages);
	fd = hold(node, pages);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, part * PAGE))
		err(1, "let %ld pages go", part);
	begin = now();
	if (fallocate(fd, 0, 0, part * PAGE))
		err(1, "fallocate");
	printf("%f\n", now() - begin);
	drop(fd);
	set_pages(node, 0);
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "touch"))
		touch(atol(words[2]));
	else if (count >= 4 && !strcmp(words[1], "pool"))
		pool(atol(words[2]), atol(words[3]), words + 4);
	else if (count == 5 && !strcmp(words[1], "fallocate"))
		again(atol(words[2]), atol(words[3]), atol(words[4]));
	else
		errx(2, "usage: bare touch|pool|fallocate NUMBER...");
	return 0;
}
