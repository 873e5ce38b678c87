/* Writing a struct imf_error. */
#ifndef IMF__ERROR_H
#define IMF__ERROR_H

#include "imf.h"

/* Sets err (when not NULL) to a formatted sentence and returns `status`, so that callers can write
 * `return imf__fail(err, IMF_EIO, "%s: ...", path)`. */
__attribute__((format(printf, 3, 4))) imf_status imf__fail(struct imf_error *err, imf_status status,
                                                           const char *format, ...);

/* Returns from the function when the call did not succeed. */
#define IMF_TRY(call)                                                                              \
    do {                                                                                           \
        imf_status imf__try_status = (call);                                                       \
        if (imf__try_status != IMF_OK)                                                             \
            return imf__try_status;                                                                \
    } while (0)

#endif
