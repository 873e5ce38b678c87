/* The commands of imfd. Each takes its own argument vector, argv[0] being the command's name, and
 * returns an exit status. */
#ifndef IMFD_COMMANDS_H
#define IMFD_COMMANDS_H

enum imfd_exit {
    IMFD_EXIT_OK = 0,
    IMFD_EXIT_FAILURE = 1, /* the work could not be done */
    IMFD_EXIT_USAGE = 2,   /* the command line is wrong; nothing was tried */
};

int imfd_cmd_serve(int argc, char **argv);
int imfd_cmd_sample(int argc, char **argv);
int imfd_cmd_evaluate(int argc, char **argv);
int imfd_cmd_inspect(int argc, char **argv);
int imfd_cmd_synth(int argc, char **argv);
int imfd_cmd_bench(int argc, char **argv);
int imfd_cmd_selfcheck(int argc, char **argv);

#endif
