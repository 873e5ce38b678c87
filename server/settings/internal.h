/* What the files of this folder share. Nothing here keeps state or is called on any but the thread
 * that starts the program. Failures set err (when not NULL) to a sentence that names the key, and
 * leave what was set so far to settings_free. */
#ifndef SETTINGS_INTERNAL_H
#define SETTINGS_INTERNAL_H

#include "settings/settings.h"

#include <cjson/cJSON.h>
#include <stddef.h>

/* ---- The table; table.c ---- */

extern const struct imfd_usage settings__usage;

/* The row of a key, in which '-' stands for '_' too; NULL when there is none. */
const struct imfd_option *settings__find(const char *key, size_t length);
/* Notes that a row was set from there. */
void settings__note(struct settings *s, const struct imfd_option *o, enum setting_origin origin);

/* ---- The list of models; models.c ---- */

/* "id=A,checkpoint=F,decoder=G;id=B,..." and [{"id": "A", ...}, ...], into struct model_settings. */
extern const struct imfd_option_other settings__models_type;

/* ---- The configuration file; file.c ---- */

/* Sets what the text gives; `name` is what errors call it. */
IMF_MUST_CHECK imf_status settings__read_text(struct settings *s, const char *text, size_t length,
                                              const char *name, struct imf_error *err);
IMF_MUST_CHECK imf_status settings__read_file(struct settings *s, const char *path,
                                              struct imf_error *err);

#endif
