/* The table of settings: name, type, default, bounds and help of every key. */
#include "settings/internal.h"
#include "settings/model_options.h"

#include <assert.h>
#include <string.h>

#define AT(field) offsetof(struct settings, field)
#define GIB ((int64_t)1 << 30)

static const struct imfd_option rows[] = {
    IMFD_OPTION(
        STRING, "config", AT(config), .argument = "FILE", .initial = "", .flag_only = true,
        .help =
            "JSON file with settings, comments allowed; the variable IMFD_CONFIG names one, too"),
    IMFD_OPTION(FLAG, "print-config", AT(print), .flag_only = true,
                .help = "show the settings in effect and where each came from"),
    IMFD_OPTION(FLAG, "print-default-config", AT(print_defaults), .flag_only = true,
                .help = "the commented configuration file"),
    IMFD_OPTION(
        STRINGS, "listen", AT(listen), .initial = "127.0.0.1:8080", .group = "Where to listen",
        .help = "Addresses to serve on: \"127.0.0.1:8080\", \"[::]:8080\" (IPv4 too), "
                "\"unix:/run/imfd.sock\", \"systemd\" (the sockets of imfd.socket). Port 0 takes a "
                "free port and logs it."),
    IMFD_OPTION(STRING, "metrics-listen", AT(metrics_listen), .initial = "",
                .help = "Address of its own for /metrics; then the addresses above do not serve "
                        "it. Empty: none."),
    IMFD_OPTION(
        STRING, "root-path", AT(root_path), .initial = "",
        .help =
            "Path prefix of every route (\"/images\"), for a proxy that passes it on unchanged."),
    IMFD_OPTION(
        OTHER, "models", AT(models), .initial = "", .other = &settings__models_type,
        .group = "Models and devices",
        .help =
            "Models to hold, the first one being the default of requests. Each is {\"id\", "
            "\"checkpoint\", \"decoder\" (file, folder or \"none\")}, and optionally \"device\", "
            "\"precision\", \"key\" (which state dict of a file with several: \"model_ema\"), "
            "\"noise_scale\" (what the noise is multiplied by; left out, what belongs to the "
            "model). As a flag or in the environment: this JSON, or "
            "id=NAME,checkpoint=FILE,decoder=FILE with ';' between models."),
    IMFD_OPTION(
        STRING, "model-dir", AT(model_dir), .initial = "",
        .help =
            "Instead of `models`: a folder that holds one model. Checkpoint and decoder are found "
            "in it and in its folders by what they are, whatever their names."),
    IMFD_OPTION(
        STRING, "model-name", AT(model_name), .initial = "",
        .help =
            "Id of the model of model_dir, or of the one served without `models`. Empty: the name "
            "of what it is."),
    IMFD_OPTION(
        PAIRS, "aliases", AT(aliases), .initial = "",
        .help =
            "More names of models, for clients that send a name of their own: {\"gpt-image-1\": "
            "\"demo\"}, or as a flag or in the environment gpt-image-1=demo,dall-e-3=demo."),
    OPTIONS_DEVICE(AT(engine)),
    OPTION_MAX_BATCH(
        AT(max_batch), "8",
        "Samples in one network evaluation. Memory for activations is planned for it at start."),
    IMFD_OPTION(INT, "decode-batch", AT(decode_batch), .initial = "0", .min = 0,
                .max = IMF_MAX_BATCH,
                .help = "Pictures in one decoder pass. 0: what suits the device."),
    IMFD_OPTION(
        INT, "max-delay-us", AT(max_delay_us), .initial = "0", .min = 0, .max = 1000000,
        .help =
            "Microseconds to wait for a fuller batch. 0 never waits while there is work, which is "
            "best nearly always: later requests join at the next step anyway."),
    IMFD_OPTION(
        INT, "max-queue", AT(max_queue), .initial = "256", .min = 1, .max = 1000000,
        .group = "Limits",
        .help = "Pictures that may wait, not yet begun. Beyond it: 503 overloaded, with a truthful "
                "Retry-After."),
    IMFD_OPTION(INT, "max-n", AT(max_n), .initial = "64", .min = 1, .max = 10000,
                .help =
                    "Pictures in one request; at most max_queue, to which the default shrinks."),
    IMFD_OPTION(INT, "max-steps", AT(max_steps), .initial = "64", .min = 1, .max = IMF_MAX_STEPS,
                .help = "Network evaluations a request may ask for per picture."),
    IMFD_OPTION(BYTES, "max-body", AT(max_body), .initial = "64K", .min = 256, .max = GIB,
                .help = "Bytes of a request body. Beyond it: 413."),
    IMFD_OPTION(
        INT, "max-connections", AT(max_connections), .initial = "1024", .min = 1, .max = 100000,
        .help =
            "Open connections. At the limit the one that has been idle longest makes room; when "
            "none is idle, more wait in the kernel. Waiting requests hold one each, so keep it "
            "above the clients you expect to wait. Fewer where the limit on open files "
            "(ulimit -n) leaves room for fewer."),
    IMFD_OPTION(
        INT, "max-connections-per-address", AT(max_connections_per_address), .initial = "512",
        .min = 0, .max = 100000,
        .help =
            "Open connections of one client address (IPv6: of one /64). Trusted proxies and unix "
            "sockets have no such limit. 0: none."),
    IMFD_OPTION(
        INT, "max-per-address", AT(max_per_address), .initial = "0", .min = 0, .max = 100000,
        .help = "Requests for pictures waiting or running per client address; beyond it 429. 0: no "
                "limit."),
    IMFD_OPTION(
        INT, "rate-limit", AT(rate_limit), .initial = "0", .min = 0, .max = 1000000000,
        .help =
            "Pictures a minute per API key (per client address without keys), with bursts up to a "
            "minute's worth; beyond it 429. 0: no limit."),
    IMFD_OPTION(
        INT, "request-timeout-ms", AT(request_timeout_ms), .initial = "120000", .min = 1,
        .max = 86400000,
        .help =
            "Milliseconds a request may take, queue included, when it names no timeout_ms; also "
            "the most it may name. A request that cannot be met is refused at arrival with 504."),
    IMFD_OPTION(INT, "header-timeout-ms", AT(header_timeout_ms), .initial = "10000", .min = 100,
                .max = 3600000,
                .help =
                    "Milliseconds from connecting to a complete header, however it trickles in."),
    IMFD_OPTION(INT, "body-timeout-ms", AT(body_timeout_ms), .initial = "30000", .min = 100,
                .max = 3600000, .help = "Milliseconds a body may take to arrive."),
    IMFD_OPTION(
        INT, "send-timeout-ms", AT(send_timeout_ms), .initial = "30000", .min = 100, .max = 3600000,
        .help = "Milliseconds a client may take to read 32 KiB of its reply before it is cut off."),
    IMFD_OPTION(INT, "idle-timeout-ms", AT(idle_timeout_ms), .initial = "75000", .min = 100,
                .max = 3600000, .help = "Milliseconds a connection may idle between requests."),
    IMFD_OPTION(
        INT, "drain-timeout", AT(drain_timeout), .initial = "30", .min = 0, .max = 3600,
        .help = "Seconds SIGTERM leaves accepted work to finish. A second signal stops at once."),
    IMFD_OPTION(
        INT, "stall-timeout", AT(stall_timeout), .initial = "60", .min = 1, .max = 86400,
        .help =
            "Seconds after which a device that does not come back from its work counts as stuck, "
            "at the least: it may take ten times what such work took before. /readyz and the "
            "metrics say so."),
    IMFD_OPTION(
        STRING, "api-keys-file", AT(api_keys_file), .initial = "", .group = "Access",
        .help =
            "File of API keys, one a line: \"name key\", '#' begins a comment. Then /v1 and the "
            "models below /v2 need Authorization: Bearer KEY. Read again on SIGHUP. Empty: no "
            "key is asked."),
    IMFD_OPTION(STRINGS, "cors-origins", AT(cors_origins), .initial = "",
                .help = "Origins whose pages may call the API (\"https://example.org\", or \"*\"). "
                        "Empty: none."),
    IMFD_OPTION(
        CHOICE, "cross-site", AT(cross_site), .initial = "refuse", .choices = "refuse|allow",
        .help =
            "Whether pages of other sites, cors_origins apart, may have pictures made by showing "
            "their addresses (browsers say so in Sec-Fetch-Site). Pictures in the cache, and "
            "links that somebody follows, are always served."),
    IMFD_OPTION(STRINGS, "allowed-hosts", AT(allowed_hosts), .initial = "",
                .help =
                    "Names this server goes by (\"images.example.org\", with \":8080\" for that "
                    "port alone); "
                    "requests with another Host are refused, health checks apart. Set it where "
                    "browsers can "
                    "reach the server and no key is asked: it stops DNS rebinding. Empty: any."),
    IMFD_OPTION(
        STRINGS, "trusted-proxies", AT(trusted_proxies), .initial = "",
        .help = "Addresses or networks (\"10.0.0.0/8\", \"::1\", \"unix\") whose X-Forwarded-For, "
                "-Proto, -Host and -Prefix are believed."),
    IMFD_OPTION(
        CHOICE, "size-policy", AT(size_policy), .initial = "strict",
        .choices = "strict|nearest|ignore", .group = "Pictures",
        .help =
            "What an OpenAI request's \"size\" does, of which some clients send 1024x1024 "
            "unasked. strict: the model's own or \"auto\", else 400. nearest: any WIDTHxHEIGHT; "
            "where no model is named, the one whose pictures come nearest. ignore: whatever it "
            "says. The reply tells the size that was made."),
    IMFD_OPTION(BYTES, "cache-bytes", AT(cache_bytes), .initial = "64M", .min = 0,
                .max = 1024 * GIB, .help = "Bytes of finished pictures to keep. 0: none."),
    IMFD_OPTION(
        INT, "png-level", AT(png_level), .initial = "1", .min = 0, .max = 9,
        .help =
            "Of PNGs: 0 stores, 1 is fast, 9 is 2 % smaller and takes over 100 times as long; no "
            "other. Part of a picture's identity: another level gives other bytes (and another "
            "ETag) for the same pixels."),
    IMFD_OPTION(CHOICE, "log-format", AT(log_format), .initial = "text", .choices = "text|json",
                .group = "Log", .help = "Lines for people or for machines."),
    IMFD_OPTION(CHOICE, "log-level", AT(log_level), .initial = "info",
                .choices = "debug|info|warn|error",
                .help = "Least level written. info includes one line per request."),
    IMFD_OPTION(STRING, "log-file", AT(log_file), .initial = "",
                .help =
                    "File to append to, opened again on SIGHUP or SIGUSR1. Empty: standard error."),
    {.name = NULL},
};

static_assert(sizeof(rows) / sizeof(rows[0]) <= IMFD_OPTIONS_MAX, "settings.origin is too short");

const struct imfd_usage settings__usage = {
    .command = "serve",
    .summary =
        "Serves pictures over HTTP. Every setting is a flag, an environment variable IMFD_KEY "
        "and a key of the JSON file; a flag wins over the environment, that over the file. "
        "Flags of lists (--listen, --models ...) may be repeated.",
    .settings = true,
    .options = rows};

const struct imfd_option *settings__find(const char *key, size_t length)
{
    for (const struct imfd_option *o = rows; o->name; o++) {
        bool same = !o->flag_only && strlen(o->name) == length;
        for (size_t c = 0; same && c < length; c++)
            same = o->name[c] == (key[c] == '_' ? '-' : key[c]);
        if (same)
            return o;
    }
    return NULL;
}
