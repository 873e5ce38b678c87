/* Shared by the commands that run the engine. */
#include "cli/common.h"

#include <stdarg.h>
#include <stdio.h>

int imfd_fail(const struct imfd_usage *usage, const char *format, ...)
{
    fprintf(stderr, "imfd %s: ", usage->command);
    va_list ap;
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    return 1;
}

int imfd_engine_open(struct imf_engine **out, const struct imfd_usage *usage,
                     const struct device_options *options)
{
    struct imf_engine_params p;
    struct imf_error err = {0};
    imf_engine_params_init(&p);
    (void)imf_precision_parse(&p.precision, options->precision); /* the table knows the choices */
    p.device = options->device;
    p.threads = options->threads;
    imf_status status = imf_engine_create(out, &p, &err);
    if (status == IMF_EINVAL)
        return imfd_usage_error(usage, "%s", err.message);
    return status == IMF_OK ? 0 : imfd_fail(usage, "%s", err.message);
}

int imfd_model_open(struct imf_model **out, struct imf_engine *e, const struct imfd_usage *usage,
                    struct imf_model_params *params)
{
    struct imfd_progress bar;
    struct imf_error err = {0};
    imfd_progress_start(&bar, "loading", NULL, 1, false);
    params->progress = imfd_progress_fraction;
    params->progress_user = &bar;
    imf_status status = imf_model_load(out, e, params, &err);
    imfd_progress_end(&bar);
    if (status != IMF_OK)
        return imfd_fail(usage, "%s", err.message);
    const struct imf_model_info *info = imf_model_get_info(*out);
    if (info->checkpoint_others[0] && !params->checkpoint_key)
        fprintf(stderr, "imfd %s: %s: took \"%s\"; --checkpoint-key takes another one of: %s\n",
                usage->command, params->checkpoint, info->checkpoint_key, info->checkpoint_others);
    return 0;
}
