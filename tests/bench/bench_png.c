/* Time and size of PNGs: libpng over zlib (at several levels, as a server would call it) beside our
 * levels 0, 1 and 9.  bench_png [-n repeats] [FILE.png ...]; without files, a made-up picture of
 * the fake engine. Pictures should be photographs of 256 x 256: noise and drawings compress
 * otherwise. The time is the best of the repeats, on one thread. */
#include "scheduler/backend.h"
#include "base/png.h"
#include "common/clock.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sink {
    uint8_t *data;
    size_t size;
};

static void on_write(png_structp png, png_bytep data, size_t n)
{
    struct sink *s = png_get_io_ptr(png);
    memcpy(s->data + s->size, data, n);
    s->size += n;
}

static void on_flush(png_structp png)
{
    (void)png;
}

static size_t with_libpng(const uint8_t *rgb, int width, int height, int level, uint8_t *out)
{
    struct sink sink = {out, 0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, &sink, on_write, on_flush);
    png_set_compression_level(png, level);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < height; y++)
        png_write_row(png, rgb + (size_t)y * (size_t)width * 3);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return sink.size;
}

struct picture {
    uint8_t *rgb;
    int width, height;
};

static bool read_png(struct picture *p, const char *path)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&image, path))
        return false;
    image.format = PNG_FORMAT_RGB;
    p->width = (int)image.width;
    p->height = (int)image.height;
    p->rgb = malloc(PNG_IMAGE_SIZE(image));
    return p->rgb && png_image_finish_read(&image, NULL, p->rgb, 0, NULL);
}

static bool made_up(struct picture *p)
{
    struct imf_engine *device;
    struct imf_model *model;
    struct imf_lane *lane;
    struct imf_engine_params ep = {.device = "fake"};
    struct imf_model_params mp = {0};
    struct imf_sampling s = {.steps = 1, .omega = 8, .t_min = 0, .t_max = 1};
    const struct backend_ops *o = &backend_fake;
    p->width = p->height = 256;
    p->rgb = malloc(256 * 256 * 3);
    return p->rgb && o->device_open(&device, &ep, NULL) == IMF_OK &&
           o->model_load(&model, device, &mp, NULL) == IMF_OK &&
           o->lane_create(&lane, model) == IMF_OK &&
           o->lane_start(lane, model, 1, 1, &s, NULL) == IMF_OK &&
           o->step_begin(model, &lane, 1) == IMF_OK && o->step_end(model, &lane, 1) == IMF_OK &&
           o->decode_begin(model, &lane, 1) == IMF_OK && o->decode_end(model, &p->rgb) == IMF_OK;
}

struct result {
    double seconds;
    size_t size;
};

static struct result measure(const struct picture *p, bool libpng, int level, int repeats,
                             uint8_t *out)
{
    struct result best = {1e9, 0};
    struct png_encoder *e = NULL;
    if (!libpng && png_encoder_create(&e, level) != IMF_OK)
        abort();
    for (int i = 0; i < repeats; i++) {
        double begin = imf__seconds();
        if (libpng) {
            best.size = with_libpng(p->rgb, p->width, p->height, level, out);
        } else {
            struct blob *png;
            if (png_encode(e, p->rgb, p->width, p->height, NULL, &png) != IMF_OK)
                abort();
            best.size = png->size;
            blob_drop(png);
        }
        double seconds = imf__seconds() - begin;
        if (seconds < best.seconds)
            best.seconds = seconds;
    }
    png_encoder_destroy(e);
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        bool libpng;
        int level;
    } rows[] = {{"libpng, zlib level 1", true, 1}, {"libpng, zlib level 6", true, 6},
                {"libpng, zlib level 9", true, 9}, {"png_level 0", false, 0},
                {"png_level 1", false, 1},         {"png_level 9", false, 9}};
    int repeats = 20, first = 1;
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        repeats = atoi(argv[2]);
        first = 3;
    }
    int count = argc > first ? argc - first : 1;
    struct picture *pictures = calloc((size_t)count, sizeof(*pictures));
    size_t largest = 0;
    for (int i = 0; i < count; i++) {
        struct picture *p = &pictures[i];
        if (!(argc > first ? read_png(p, argv[first + i]) : made_up(p))) {
            fprintf(stderr, "cannot read %s\n", argc > first ? argv[first + i] : "the picture");
            return 1;
        }
        size_t size = (size_t)p->width * (size_t)p->height * 3;
        largest = size > largest ? size : largest;
    }
    uint8_t *out = malloc(2 * largest + 65536);
    printf("%-22s %12s %12s\n", "encoder", "ms/picture", "bytes");
    for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
        double seconds = 0, bytes = 0;
        for (int i = 0; i < count; i++) {
            struct result one = measure(&pictures[i], rows[r].libpng, rows[r].level, repeats, out);
            seconds += one.seconds;
            bytes += (double)one.size;
        }
        printf("%-22s %12.3f %12.0f\n", rows[r].name, seconds / count * 1e3, bytes / count);
    }
    for (int i = 0; i < count; i++)
        free(pictures[i].rgb);
    free(pictures);
    free(out);
    return 0;
}
