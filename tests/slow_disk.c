/* Stands before read() and posix_fadvise(): see slow_disk.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MOST_FILES 4096

/* In a file that all processes map: they share the disk, and what the system remembers of it. */
static struct disk {
    int num_files;
    struct { char path[512]; off_t known; } files[MOST_FILES];
} *disk;

/* Until it is closed, nobody else reads: a disk that is busy with one does not read for another. */
static int take_disk(void)
{
    const char *state = getenv("SLOW_DISK_STATE");
    int fd = open(state, O_RDWR);
    if (fd < 0 || flock(fd, LOCK_EX))
        abort();
    if (!disk) {
        int mapped = open(state, O_RDWR); /* a map keeps the lock of the file that it is of */
        disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
        close(mapped);
    }
    return fd;
}

/* Whether a file is on the disk, by its suffix, and its path. */
static int is_on_disk(int fd, char *path, size_t size)
{
    const char *suffix = getenv("SLOW_DISK_SUFFIX");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0 || !suffix || (size_t)length < strlen(suffix))
        return 0;
    path[length] = 0;
    return !strcmp(path + length - strlen(suffix), suffix);
}

static off_t *known_bytes(const char *path)
{
    int place = 0;
    while (place < disk->num_files && strcmp(disk->files[place].path, path))
        place++;
    if (place == MOST_FILES)
        abort();
    if (place == disk->num_files) {
        strcpy(disk->files[place].path, path);
        disk->num_files++;
    }
    return &disk->files[place].known;
}

ssize_t read(int fd, void *buffer, size_t count)
{
    static ssize_t (*next)(int, void *, size_t);
    if (!next)
        next = dlsym(RTLD_NEXT, "read");
    off_t begin = lseek(fd, 0, SEEK_CUR);
    ssize_t got = next(fd, buffer, count);
    char path[512];
    if (begin < 0 || got <= 0 || !is_on_disk(fd, path, sizeof path))
        return got;
    int held = take_disk();
    off_t *known = known_bytes(path), end = begin + got;
    if (end > *known) {
        off_t first = begin > *known ? begin : *known;
        double seconds = (end - first) / atof(getenv("SLOW_DISK_BYTES_PER_SECOND"));
        struct timespec wait = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        nanosleep(&wait, NULL);
        *known = end;
    }
    close(held);
    return got;
}

int posix_fadvise(int fd, off_t offset, off_t length, int advice)
{
    static int (*next)(int, off_t, off_t, int);
    if (!next)
        next = dlsym(RTLD_NEXT, "posix_fadvise");
    char path[512];
    if (advice == POSIX_FADV_DONTNEED && is_on_disk(fd, path, sizeof path)) {
        int held = take_disk();
        *known_bytes(path) = 0;
        close(held);
    }
    return next(fd, offset, length, advice);
}

int posix_fadvise64(int fd, off_t offset, off_t length, int advice)
{
    return posix_fadvise(fd, offset, length, advice);
}
