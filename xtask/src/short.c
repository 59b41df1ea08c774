/* Reads and writes at a place that do less than they were asked to, as a nearly full disk or a
 * signal makes them. Preloaded into a daemon by `cargo xtask faults`. How many were cut is written
 * to the file that SHORT_COUNT names when the program ends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

static atomic_ulong calls, cut;

static size_t less(size_t len) {
    unsigned long n = atomic_fetch_add(&calls, 1);
    if (len < 2 || n % 3 == 0)
        return len;
    atomic_fetch_add(&cut, 1);
    return 1 + n * 2654435761u % (len - 1);
}

typedef ssize_t reads(int, void *, size_t, off64_t);
typedef ssize_t writes(int, const void *, size_t, off64_t);

ssize_t pread64(int file, void *bytes, size_t len, off64_t at) {
    return ((reads *)dlsym(RTLD_NEXT, "pread64"))(file, bytes, less(len), at);
}

ssize_t pwrite64(int file, const void *bytes, size_t len, off64_t at) {
    return ((writes *)dlsym(RTLD_NEXT, "pwrite64"))(file, bytes, less(len), at);
}

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("SHORT_COUNT");
    FILE *out = path ? fopen(path, "w") : NULL;
    if (out) {
        fprintf(out, "%lu\n", atomic_load(&cut));
        fclose(out);
    }
}
