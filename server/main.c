/* imfd: one program, several commands. This file only finds the command and runs it. */
#include "cli/commands.h"
#include "imf.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

/* In the order a newcomer meets them. */
static const struct command commands[] = {
    {"serve", imfd_cmd_serve, "serve pictures over HTTP"},
    {"sample", imfd_cmd_sample, "draw pictures into a file"},
    {"evaluate", imfd_cmd_evaluate, "measure FID and Inception Score"},
    {"inspect", imfd_cmd_inspect, "tell what a checkpoint file holds"},
    {"synth", imfd_cmd_synth, "write synthetic weights"},
    {"bench", imfd_cmd_bench, "measure speed and memory"},
    {"selfcheck", imfd_cmd_selfcheck, "compare this machine's results with a plain reference"},
    {NULL, NULL, NULL},
};

static void print_help(FILE *out)
{
    fprintf(out, "usage: imfd COMMAND [options]\n\n"
                 "Images from Improved Mean Flows models, one network evaluation at a time.\n\n"
                 "commands:\n");
    for (const struct command *c = commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fprintf(out,
            "\n'imfd COMMAND --help' lists a command's options; 'imfd --version' the version.\n"
            "exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped and saved (evaluate)\n");
}

/* libgomp reads its environment when it is loaded, before main, and by default idle threads spin:
 * beside any other busy process that costs milliseconds a parallel region (a small model's step
 * took 350 ms instead of 5), because the spinning team holds the processor that its last member
 * waits for. Threads that sleep at once pay a wake-up for every region instead. So the program
 * starts itself once more with threads that spin for some tens of microseconds and then sleep,
 * unless the person who runs it has chosen a policy. */
static void prefer_short_waiting(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || setenv("OMP_WAIT_POLICY", "passive", 1) != 0 ||
        setenv("GOMP_SPINCOUNT", "1000", 0) != 0)
        return;
    execv("/proc/self/exe", argv); /* where it fails, running on as we are is only slower */
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return IMFD_EXIT_OK;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("imfd %s\n", imf_version());
        return IMFD_EXIT_OK;
    }
    prefer_short_waiting(argv);
    /* Large blocks go back to the system when freed. glibc would raise the limit with each tensor
     * read and keep some 50 MB of holes after a model is loaded. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    /* Every thread's arena would reserve 64 MB of it. */
    struct rlimit addresses;
    if (getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY)
        mallopt(M_ARENA_MAX, 1);
    for (const struct command *c = commands; c->name; c++) {
        if (strcmp(c->name, name) == 0)
            return c->run(argc - 1, argv + 1);
    }
    if (*name)
        fprintf(stderr, "imfd: unknown command '%s'\n", name);
    else
        fprintf(stderr, "imfd: no command given\n");
    print_help(stderr);
    return IMFD_EXIT_USAGE;
}
