/* Flags of `imfd evaluate`. */
#include "evaluate/setup.h"
#include "settings/model_options.h"

#include <string.h>

static const char notes[] =
    "The release's table, from a folder with its four checkpoints:\n"
    "  imfd evaluate --release-table --ckpt-path checkpoints --decoder sd-vae \\\n"
    "    --inception weights-inception-2015-12-05-6726825d.pth --fid-ref jit_in256_stats.npz \\\n"
    "    --num-images 50000 --gen-bsz 64 --workdir table\n"
    "One row: --ckpt-path MiT_B_2.pth without --release-table; the model's guidance and steps are "
    "the\n"
    "defaults (second XL row: --num-sampling-steps 2 --cfg-omega 4 --interval-min 0.36 "
    "--interval-max 0.64).\n"
    "On several machines: mpirun -n N imfd evaluate ... with a workdir that all of them see.\n"
    "Ctrl-C saves and stops (with mpirun: kill -USR1 its process); the same command goes on.\n"
    "exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped and saved";

static bool check(const struct imfd_usage *u, const struct eval_options *o)
{
    const char *wrong = NULL;
    if (!o->inception)
        wrong =
            "--inception is needed: weights-inception-2015-12-05-6726825d.pth of torch-fidelity";
    else if (!o->workdir)
        wrong = "--workdir is needed: a folder for progress and reports";
    else if (!o->checkpoint == !o->images)
        wrong = "give either --ckpt-path (a model) or --images (a folder of pictures, or an .npz)";
    else if ((o->kid || o->precision_recall) && !o->fid_ref)
        wrong = "--kid and --precision-recall need --fid-ref with features in it, as --make-ref "
                "--keep-features writes";
    else if (o->keep_features && !o->make_ref)
        wrong = "--keep-features belongs to --make-ref";
    else if (o->save_samples && o->images)
        wrong = "--save-samples and --images exclude each other: the pictures are there already";
    else if (o->release_table &&
             (!o->checkpoint || !o->fid_ref || o->make_ref || o->model || o->sampling.steps ||
              !isnan(o->sampling.omega) || !isnan(o->sampling.t_min) || !isnan(o->sampling.t_max)))
        wrong = "--release-table goes with --ckpt-path and --fid-ref; it sets models, guidance and "
                "steps itself, and makes no reference";
    if (wrong)
        (void)imfd_usage_error(u, "%s", wrong);
    return !wrong;
}

enum imfd_parsed eval_options_parse(struct eval_options *o, int argc, char **argv)
{
    memset(o, 0, sizeof(*o));
    o->argc = argc;
    o->argv = argv;
    o->num_images = 50000;
    o->sample_seed = 42;
    o->checkpoint_s = 120;
    o->kid_subsets = 100;
    o->kid_subset_size = 1000;
    o->sampling = (struct imf_sampling)SAMPLING_UNSET;
    o->device = (struct device_options)DEVICE_OPTIONS_INIT;
    const struct imfd_option options[] = {
        OPTION_CHECKPOINT(&o->checkpoint),
        OPTIONS_CHECKPOINT_MORE(&o->checkpoint_key, &o->noise_scale),
        OPTION_MODEL(&o->model, OPTION_MODEL_HELP),
        OPTION_DECODER(&o->decoder),
        {"inception", NULL, IMFD_OPTION_STRING, &o->inception, NULL, "FILE", 0, 0,
         "InceptionV3 weights, weights-inception-2015-12-05-6726825d.pth"},
        {"fid-ref", NULL, IMFD_OPTION_STRING, &o->fid_ref, NULL, "FILE", 0, 0,
         "reference statistics (.npz with mu and sigma); without it no FID. With --release-table "
         "also a folder of jit_in256_stats.npz and jit_in512_stats.npz"},
        {"images", NULL, IMFD_OPTION_STRING, &o->images, NULL, "DIR", 0, 0,
         "score the PNG, JPEG and WebP files of this folder, or an .npz's arr_0, instead of a "
         "model"},
        {"recursive", "r", IMFD_OPTION_FLAG, &o->recursive, NULL, NULL, 0, 0,
         "with --images: of its sub-folders, too"},
        {"make-ref", NULL, IMFD_OPTION_STRING, &o->make_ref, NULL, "FILE", 0, 0,
         "write the statistics as reference statistics"},
        {"keep-features", NULL, IMFD_OPTION_FLAG, &o->keep_features, NULL, NULL, 0, 0,
         "put the features into --make-ref's file, for KID, precision and recall"},
        {"workdir", "w", IMFD_OPTION_STRING, &o->workdir, NULL, "DIR", 0, 0,
         "folder for progress, reports and pictures"},
        {"num-images", "n", IMFD_OPTION_INT, &o->num_images, &o->num_images_given, "N", 2, 1e8,
         "pictures, a multiple of the model's classes; default 50000, with --images all"},
        OPTION_MAX_BATCH(&o->batch, "pictures computed together (default: 64 on a GPU, 8 on the "
                                    "CPU); does not change the result"),
        OPTIONS_SAMPLING(o->sampling),
        {"sample-seed", NULL, IMFD_OPTION_UINT64, &o->sample_seed, NULL, "N", 0, 0,
         "image k has the seed k XOR this; default 42"},
        {"save-samples", NULL, IMFD_OPTION_FLAG, &o->save_samples, NULL, NULL, 0, 0,
         "keep every picture as WORKDIR/samples/NNNNN.png"},
        {"kid", NULL, IMFD_OPTION_FLAG, &o->kid, NULL, NULL, 0, 0,
         "compute KID too (the reference must hold features)"},
        {"kid-subsets", NULL, IMFD_OPTION_INT, &o->kid_subsets, NULL, "N", 1, 100000,
         "random subsets of KID; default 100"},
        {"kid-subset-size", NULL, IMFD_OPTION_INT, &o->kid_subset_size, NULL, "N", 2, 100000,
         "pictures per subset of KID; default 1000"},
        {"precision-recall", NULL, IMFD_OPTION_FLAG, &o->precision_recall, NULL, NULL, 0, 0,
         "compute precision and recall too, k = 3 (the reference must hold features)"},
        OPTIONS_DEVICE(o->device),
        {"checkpoint-seconds", NULL, IMFD_OPTION_INT, &o->checkpoint_s, NULL, "N", 1, 86400,
         "save progress this often; default 120"},
        {"release-table", NULL, IMFD_OPTION_FLAG, &o->release_table, NULL, NULL, 0, 0,
         "--ckpt-path is a folder: measure every row of the release's table whose checkpoint is "
         "there, each in a folder of its own in the workdir"},
        {"restart", NULL, IMFD_OPTION_FLAG, &o->restart, NULL, NULL, 0, 0,
         "discard what the workdir holds of an earlier evaluation"},
        {"quiet", "q", IMFD_OPTION_FLAG, &o->quiet, NULL, NULL, 0, 0, "no progress"},
        {NULL, NULL, IMFD_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL},
    };
    const struct imfd_usage usage = {
        .command = "evaluate",
        .summary = "Measures FID and Inception Score of a model, or of a folder of PNGs.",
        .notes = notes,
        .options = options};
    enum imfd_parsed parsed = imfd_options_parse(&usage, argc, argv, NULL, NULL);
    if (parsed == IMFD_PARSED_RUN && !check(&usage, o))
        parsed = IMFD_PARSED_ERROR;
    return parsed;
}
