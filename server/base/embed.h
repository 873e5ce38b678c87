/* Files compiled into the program (server/Embed.cmake): the web page, /openapi.json, the class list.
 * A zero byte follows each file's last byte, so text can be read as a string. */
#ifndef EMBED_H
#define EMBED_H

struct embedded_file {
    const char *name; /* path below the embedded folder, '/' between parts; NULL ends a table */
    const unsigned char *data, *end;
};

#endif
