/* Stands before read() and posix_fadvise(): see slow_disk.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST_FILES 4096

static struct { char path[512]; off_t known; } files[MOST_FILES];
static int num_files;

/* The place of a file among those of the suffix; -1 for others. */
static int place_of(int fd)
{
    const char *suffix = getenv("SLOW_DISK_SUFFIX");
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || !suffix || (size_t)length < strlen(suffix))
        return -1;
    path[length] = 0;
    if (strcmp(path + length - strlen(suffix), suffix))
        return -1;
    for (int i = 0; i < num_files; i++)
        if (!strcmp(files[i].path, path))
            return i;
    if (num_files == MOST_FILES)
        return -1;
    strcpy(files[num_files].path, path);
    return num_files++;
}

ssize_t read(int fd, void *buffer, size_t count)
{
    static ssize_t (*next)(int, void *, size_t);
    if (!next)
        next = dlsym(RTLD_NEXT, "read");
    off_t begin = lseek(fd, 0, SEEK_CUR);
    ssize_t got = next(fd, buffer, count);
    int place = begin < 0 || got <= 0 ? -1 : place_of(fd);
    if (place >= 0 && begin + got > files[place].known) {
        off_t begun = begin > files[place].known ? begin : files[place].known;
        double seconds = (begin + got - begun) / atof(getenv("SLOW_DISK_BYTES_PER_SECOND"));
        struct timespec wait = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        nanosleep(&wait, NULL);
        files[place].known = begin + got;
    }
    return got;
}

int posix_fadvise(int fd, off_t offset, off_t length, int advice)
{
    static int (*next)(int, off_t, off_t, int);
    if (!next)
        next = dlsym(RTLD_NEXT, "posix_fadvise");
    int place = advice == POSIX_FADV_DONTNEED ? place_of(fd) : -1;
    if (place >= 0)
        files[place].known = 0;
    return next(fd, offset, length, advice);
}

int posix_fadvise64(int fd, off_t offset, off_t length, int advice)
{
    return posix_fadvise(fd, offset, length, advice);
}
