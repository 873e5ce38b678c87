/* The table of settings: name, type, default, bounds and help of every key. */
#include "settings/internal.h"
#include "settings/model_options.h"

#include <assert.h>
#include <string.h>

#define AT(field) offsetof(struct settings, field)
#define GIB ((int64_t)1 << 30)

const struct setting_row settings__table[] = {
    {"listen", TYPE_LIST, AT(listen), "127.0.0.1:8080", 0, 0, NULL, "Where to listen",
     "Addresses to serve on: \"127.0.0.1:8080\", \"[::]:8080\" (IPv4 too), "
     "\"unix:/run/imfd.sock\",\n"
     "\"systemd\" (the sockets of imfd.socket). Port 0 takes a free port and logs it."},
    {"metrics_listen", TYPE_TEXT, AT(metrics_listen), "", 0, 0, NULL, NULL,
     "Address of its own for /metrics; then the addresses above do not serve it. Empty: none."},
    {"root_path", TYPE_TEXT, AT(root_path), "", 0, 0, NULL, NULL,
     "Path prefix of every route (\"/images\"), for a proxy that passes it on unchanged."},
    {"models", TYPE_MODELS, AT(models), "", 0, 0, NULL, "Models and devices",
     "Models to hold, the first one being the default of requests. Each is {\"id\", "
     "\"checkpoint\",\n"
     "\"decoder\" (file, folder or \"none\")}, and optionally \"device\", \"precision\", \"key\" "
     "(which\n"
     "state dict of a file with several: \"model_ema\"), \"noise_scale\" (what the noise is "
     "multiplied\n"
     "by; left out, what belongs to the model). As a flag or in the environment: this JSON, or\n"
     "id=NAME,checkpoint=FILE,decoder=FILE with ';' between models."},
    {"model_dir", TYPE_TEXT, AT(model_dir), "", 0, 0, NULL, NULL,
     "Instead of `models`: a folder that holds one model. Checkpoint and decoder are found in it "
     "and "
     "in\nits folders by what they are, whatever their names."},
    {"model_name", TYPE_TEXT, AT(model_name), "", 0, 0, NULL, NULL,
     "Id of the model of model_dir, or of the one served without `models`. Empty: the name of what "
     "it is."},
    {"aliases", TYPE_PAIRS, AT(aliases), "", 0, 0, NULL, NULL,
     "More names of models, for clients that send a name of their own: {\"gpt-image-1\": "
     "\"demo\"}, or "
     "as a flag\nor in the environment gpt-image-1=demo,dall-e-3=demo."},
    {"device", TYPE_TEXT, AT(device), "auto", 0, 0, NULL, NULL,
     "auto (every GPU, or the CPU where there is none), cpu, cuda (every GPU), or cuda:0,1 for "
     "these.\n"
     "\"fake\" computes nothing and is for tests of the server."},
    {"precision", TYPE_CHOICE, AT(precision), "auto", 0, 0, "auto|fp32|bf16", NULL,
     "auto is bf16 where the device has fast bfloat16, else fp32."},
    {"threads", TYPE_INTEGER, AT(threads), "0", 0, MAX_THREADS, NULL, NULL,
     "Threads of the CPU device. 0: all processors this process may use."},
    {"max_batch", TYPE_INTEGER, AT(max_batch), "8", 1, IMF_MAX_BATCH, NULL, NULL,
     "Samples in one network evaluation. Memory for activations is planned for it at start."},
    {"decode_batch", TYPE_INTEGER, AT(decode_batch), "0", 0, IMF_MAX_BATCH, NULL, NULL,
     "Pictures in one decoder pass. 0: what suits the device."},
    {"max_delay_us", TYPE_INTEGER, AT(max_delay_us), "0", 0, 1000000, NULL, NULL,
     "Microseconds to wait for a fuller batch. 0 never waits while there is work, which is best\n"
     "nearly always: later requests join at the next step anyway."},
    {"max_queue", TYPE_INTEGER, AT(max_queue), "256", 1, 1000000, NULL, "Limits",
     "Pictures that may wait, not yet begun. Beyond it: 503 overloaded, with a truthful "
     "Retry-After."},
    {"max_n", TYPE_INTEGER, AT(max_n), "64", 1, 10000, NULL, NULL,
     "Pictures in one request; at most max_queue, to which the default shrinks."},
    {"max_steps", TYPE_INTEGER, AT(max_steps), "64", 1, IMF_MAX_STEPS, NULL, NULL,
     "Network evaluations a request may ask for per picture."},
    {"max_body", TYPE_BYTES, AT(max_body), "64K", 256, GIB, NULL, NULL,
     "Bytes of a request body. Beyond it: 413."},
    {"max_connections", TYPE_INTEGER, AT(max_connections), "1024", 1, 100000, NULL, NULL,
     "Open connections. At the limit the one that has been idle longest makes room; when none is\n"
     "idle, more wait in the kernel. Waiting requests hold one each, so keep it above the clients\n"
     "you expect to wait."},
    {"max_connections_per_address", TYPE_INTEGER, AT(max_connections_per_address), "512", 0, 100000,
     NULL, NULL,
     "Open connections of one client address (IPv6: of one /64). Trusted proxies and unix sockets\n"
     "have no such limit. 0: none."},
    {"max_per_address", TYPE_INTEGER, AT(max_per_address), "0", 0, 100000, NULL, NULL,
     "Requests for pictures waiting or running per client address; beyond it 429. 0: no limit."},
    {"rate_limit", TYPE_INTEGER, AT(rate_limit), "0", 0, 1000000000, NULL, NULL,
     "Pictures a minute per API key (per client address without keys), with bursts up to a "
     "minute's\n"
     "worth; beyond it 429. 0: no limit."},
    {"request_timeout_ms", TYPE_INTEGER, AT(request_timeout_ms), "120000", 1, 86400000, NULL, NULL,
     "Milliseconds a request may take, queue included, when it names no timeout_ms; also the most\n"
     "it may name. A request that cannot be met is refused at arrival with 504."},
    {"header_timeout_ms", TYPE_INTEGER, AT(header_timeout_ms), "10000", 100, 3600000, NULL, NULL,
     "Milliseconds from connecting to a complete header, however it trickles in."},
    {"body_timeout_ms", TYPE_INTEGER, AT(body_timeout_ms), "30000", 100, 3600000, NULL, NULL,
     "Milliseconds a body may take to arrive."},
    {"send_timeout_ms", TYPE_INTEGER, AT(send_timeout_ms), "30000", 100, 3600000, NULL, NULL,
     "Milliseconds a client may take to read 32 KiB of its reply before it is cut off."},
    {"idle_timeout_ms", TYPE_INTEGER, AT(idle_timeout_ms), "75000", 100, 3600000, NULL, NULL,
     "Milliseconds a connection may idle between requests."},
    {"drain_timeout", TYPE_INTEGER, AT(drain_timeout), "30", 0, 3600, NULL, NULL,
     "Seconds SIGTERM leaves accepted work to finish. A second signal stops at once."},
    {"stall_timeout", TYPE_INTEGER, AT(stall_timeout), "60", 1, 86400, NULL, NULL,
     "Seconds after which a device that does not come back from its work counts as stuck, at the\n"
     "least: it may take ten times what such work took before. /readyz and the metrics say so."},
    {"api_keys_file", TYPE_TEXT, AT(api_keys_file), "", 0, 0, NULL, "Access",
     "File of API keys, one a line: \"name key\", '#' begins a comment. Then /v1 needs\n"
     "Authorization: Bearer KEY. Read again on SIGHUP. Empty: no key is asked."},
    {"cors_origins", TYPE_LIST, AT(cors_origins), "", 0, 0, NULL, NULL,
     "Origins whose pages may call the API (\"https://example.org\", or \"*\"). Empty: none."},
    {"cross_site", TYPE_CHOICE, AT(cross_site), "refuse", 0, 0, "refuse|allow", NULL,
     "Whether pages of other sites, cors_origins apart, may have pictures made by showing their\n"
     "addresses (browsers say so in Sec-Fetch-Site). Pictures in the cache, and links that "
     "somebody\n"
     "follows, are always served."},
    {"allowed_hosts", TYPE_LIST, AT(allowed_hosts), "", 0, 0, NULL, NULL,
     "Names this server goes by (\"images.example.org\", with \":8080\" for that port alone); "
     "requests\n"
     "with another Host are refused, health checks apart. Set it where browsers can reach the "
     "server\n"
     "and no key is asked: it stops DNS rebinding. Empty: any."},
    {"trusted_proxies", TYPE_LIST, AT(trusted_proxies), "", 0, 0, NULL, NULL,
     "Addresses or networks (\"10.0.0.0/8\", \"::1\", \"unix\") whose X-Forwarded-For, -Proto, "
     "-Host and\n"
     "-Prefix are believed."},
    {"size_policy", TYPE_CHOICE, AT(size_policy), "strict", 0, 0, "strict|nearest|ignore",
     "Pictures",
     "What an OpenAI request's \"size\" does, of which some clients send 1024x1024 unasked. "
     "strict:\n"
     "the model's own or \"auto\", else 400. nearest: any WIDTHxHEIGHT; where no model is named, "
     "the one\n"
     "whose pictures come nearest. ignore: whatever it says. The reply tells the size that was "
     "made."},
    {"cache_bytes", TYPE_BYTES, AT(cache_bytes), "64M", 0, 1024 * GIB, NULL, NULL,
     "Bytes of finished pictures to keep. 0: none."},
    {"png_level", TYPE_INTEGER, AT(png_level), "1", 0, 9, NULL, NULL,
     "Of PNGs: 0 stores, 1 is fast, 9 is 2 % smaller and takes 100 times as long; no other. Part "
     "of "
     "a\n"
     "picture's identity: another level gives other bytes (and another ETag) for the same pixels."},
    {"log_format", TYPE_CHOICE, AT(log_format), "text", 0, 0, "text|json", "Log",
     "Lines for people or for machines."},
    {"log_level", TYPE_CHOICE, AT(log_level), "info", 0, 0, "debug|info|warn|error", NULL,
     "Least level written. info includes one line per request."},
    {"log_file", TYPE_TEXT, AT(log_file), "", 0, 0, NULL, NULL,
     "File to append to, opened again on SIGHUP or SIGUSR1. Empty: standard error."},
};

enum { N_ROWS = sizeof(settings__table) / sizeof(settings__table[0]) };
static_assert(N_ROWS <= (int)SETTINGS_MAX_KEYS, "settings.origin is too short");

const int settings__row_count = N_ROWS;

int settings__find(const char *key, size_t length)
{
    for (int i = 0; i < N_ROWS; i++) {
        bool same = strlen(settings__table[i].key) == length;
        for (size_t c = 0; same && c < length; c++)
            same = settings__table[i].key[c] == (key[c] == '-' ? '_' : key[c]);
        if (same)
            return i;
    }
    return -1;
}
