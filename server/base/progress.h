/* Progress of long work: a bar that redraws itself when stderr is a terminal, a plain line every
 * few seconds elsewhere (so that logs stay readable), nothing for work that is over at once. */
#ifndef IMFD_PROGRESS_H
#define IMFD_PROGRESS_H

#include <stdbool.h>

struct imfd_progress {
    const char *label;
    const char *unit;     /* "pictures"; NULL: percentages only */
    double total;         /* in units; 1 where update() gets a fraction */
    double started, last; /* seconds, monotonic */
    double first;         /* done before this start: set it after start() for resumed work */
    bool terminal, drawn;
};

/* quiet: print nothing. label and unit must outlive the struct. */
void imfd_progress_start(struct imfd_progress *p, const char *label, const char *unit, double total,
                         bool quiet);
void imfd_progress_update(struct imfd_progress *p, double done);
/* Ends the bar with a line that says how long it took. */
void imfd_progress_end(struct imfd_progress *p);
/* For imf_model_params.progress; user is the struct, started with total 1. */
void imfd_progress_fraction(void *user, double fraction);

#endif
