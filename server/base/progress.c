/* Progress bars and lines on stderr. */
#include "base/progress.h"
#include "common/clock.h"

#include <stdio.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define BAR_PERIOD_S 0.1
#define LINE_PERIOD_S 5.0

void imfd_progress_start(struct imfd_progress *p, const char *label, const char *unit, double total,
                         bool quiet)
{
    *p = (struct imfd_progress){.label = label, .unit = unit, .total = quiet ? 0 : total};
    p->terminal = isatty(STDERR_FILENO) == 1;
    p->started = p->last = imf__seconds();
}

/* Rate, where there is a unit, and time left. Work done before the start counts for neither. */
static void print_rate(const struct imfd_progress *p, double done, double elapsed)
{
    double rate = elapsed > 0 ? (done - p->first) / elapsed : 0;
    if (rate <= 0)
        return;
    if (p->unit)
        fprintf(stderr, ", %.3g/s", rate);
    double left = done < p->total ? (p->total - done) / rate : 0;
    if (left < 100)
        fprintf(stderr, ", %.0f s left", left);
    else if (left < 6000)
        fprintf(stderr, ", %.0f min left", left / 60);
    else
        fprintf(stderr, ", %.1f h left", left / 3600);
}

static void print_amount(const struct imfd_progress *p, double done)
{
    if (p->unit)
        fprintf(stderr, "%.0f/%.0f %s", done, p->total, p->unit);
    else
        fprintf(stderr, "%3.0f %%", 100 * done / p->total);
}

void imfd_progress_update(struct imfd_progress *p, double done)
{
    double now = imf__seconds();
    if (p->total <= 0 || now - p->last < (p->terminal ? BAR_PERIOD_S : LINE_PERIOD_S))
        return;
    p->last = now;
    p->drawn = true;
    double fraction = done < p->total ? done / p->total : 1;
    if (p->terminal) {
        char bar[BAR_WIDTH + 1];
        for (int i = 0; i < BAR_WIDTH; i++)
            bar[i] = (i + 0.5) / BAR_WIDTH < fraction ? '#' : '.';
        bar[BAR_WIDTH] = '\0';
        fprintf(stderr, "\r%s [%s] ", p->label, bar);
        print_amount(p, done);
        print_rate(p, done, now - p->started);
        fprintf(stderr, " \033[K");
    } else {
        fprintf(stderr, "%s: ", p->label);
        print_amount(p, done);
        print_rate(p, done, now - p->started);
        fprintf(stderr, "\n");
    }
    fflush(stderr);
}

void imfd_progress_end(struct imfd_progress *p)
{
    if (!p->drawn)
        return;
    fprintf(stderr, "%s%s: ", p->terminal ? "\r\033[K" : "", p->label);
    if (p->unit)
        fprintf(stderr, "%.0f %s ", p->total, p->unit);
    fprintf(stderr, "in %.1f s\n", imf__seconds() - p->started);
    p->drawn = false;
}

void imfd_progress_fraction(void *user, double fraction)
{
    imfd_progress_update(user, fraction);
}
