/* Small timed loops for the benchmarks, without an interpreter's cost in each call.
 *
 *   probe seq FILE BLOCK            read all of FILE by BLOCK bytes
 *   probe first FILE BLOCK          read the first BLOCK bytes of FILE
 *   probe rand FILE BLOCK COUNT     COUNT reads of BLOCK bytes at random, aligned places
 *   probe mmap FILE                 map FILE and touch each cache line
 *   probe opens DIR LIST            open, fstat, read and close each file named in LIST
 *   probe stats DIR LIST            lstat each file named in LIST
 *   probe write FILE BLOCK SIZE     write SIZE new bytes by BLOCK
 *
 * Prints the seconds that the loop took. `rand` draws the same places each time, from SEED in
 * the environment. Every error ends it with status 1 and a word on standard error. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int opened(const char *path, off_t *size) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) fail(path);
    *size = st.st_size;
    return fd;
}

static char *buffer(size_t bytes) {
    char *b = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!b) fail("memory");
    memset(b, 'x', bytes);
    return b;
}

static double seq(const char *path, size_t block) {
    char *b = buffer(block);
    double start = now();
    off_t size, sum = 0;
    int fd = opened(path, &size);
    ssize_t n;
    while ((n = read(fd, b, block)) > 0) sum += n;
    if (n < 0 || sum != size) fail(path);
    close(fd);
    return now() - start;
}

static double first(const char *path, size_t block) {
    char *b = buffer(block);
    double start = now();
    off_t size;
    int fd = opened(path, &size);
    if (read(fd, b, block) != (ssize_t)block) fail(path);
    close(fd);
    return now() - start;
}

static double random_reads(const char *path, size_t block, long count) {
    off_t size;
    int fd = opened(path, &size);
    const char *seed = getenv("SEED");
    uint64_t s = 0x9E3779B97F4A7C15u ^ (seed ? strtoull(seed, NULL, 10) * 0xD1342543DE82EF95u : 0);
    char *b = buffer(block);
    double start = now();
    for (long i = 0; i < count; i++) {
        s ^= s << 13; s ^= s >> 7; s ^= s << 17;
        off_t at = (off_t)(s % ((uint64_t)size / block)) * (off_t)block;
        if (pread(fd, b, block, at) != (ssize_t)block) fail(path);
    }
    double took = now() - start;
    close(fd);
    return took;
}

static double mapped(const char *path) {
    double start = now();
    off_t size;
    int fd = opened(path, &size);
    volatile uint64_t sum = 0;
    unsigned char *p = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) fail(path);
    for (off_t i = 0; i < size; i += 64) sum += p[i];
    munmap(p, (size_t)size);
    close(fd);
    return now() - start;
}

static double each(const char *dir, const char *list, int open_too) {
    FILE *names = fopen(list, "r");
    if (!names) fail(list);
    int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) fail(dir);
    char *b = buffer(64 * 1024), *line = NULL;
    size_t room = 0, used = 0, count = 0;
    char **all = NULL;
    for (ssize_t n; (n = getline(&line, &room, names)) > 0;) {
        line[n - 1] = 0;
        if (used == count) all = realloc(all, (count = count * 2 + 1024) * sizeof *all);
        if (!all || !(all[used++] = strdup(line))) fail("memory");
    }
    double start = now();
    for (size_t i = 0; i < used; i++) {
        struct stat st;
        if (!open_too) {
            if (fstatat(at, all[i], &st, AT_SYMLINK_NOFOLLOW) != 0) fail(all[i]);
            continue;
        }
        int fd = openat(at, all[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) != 0) fail(all[i]);
        if (read(fd, b, 64 * 1024) != st.st_size && st.st_size <= 64 * 1024) fail(all[i]);
        close(fd);
    }
    return now() - start;
}

static double written(const char *path, size_t block, long long size) {
    char *b = buffer(block);
    double start = now();
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) fail(path);
    for (long long i = 0; i < size; i += (long long)block) {
        memcpy(b, &i, sizeof i);
        if (write(fd, b, block) != (ssize_t)block) fail(path);
    }
    if (close(fd) != 0) fail(path);
    return now() - start;
}

int main(int n, char **a) {
    double took;
    if (n == 4 && !strcmp(a[1], "seq")) took = seq(a[2], strtoull(a[3], NULL, 10));
    else if (n == 4 && !strcmp(a[1], "first")) took = first(a[2], strtoull(a[3], NULL, 10));
    else if (n == 5 && !strcmp(a[1], "rand"))
        took = random_reads(a[2], strtoull(a[3], NULL, 10), strtol(a[4], NULL, 10));
    else if (n == 3 && !strcmp(a[1], "mmap")) took = mapped(a[2]);
    else if (n == 4 && !strcmp(a[1], "opens")) took = each(a[2], a[3], 1);
    else if (n == 4 && !strcmp(a[1], "stats")) took = each(a[2], a[3], 0);
    else if (n == 5 && !strcmp(a[1], "write"))
        took = written(a[2], strtoull(a[3], NULL, 10), strtoll(a[4], NULL, 10));
    else {
        fprintf(stderr, "probe: see the head of probe.c\n");
        return 2;
    }
    printf("%.9f\n", took);
    return 0;
}
