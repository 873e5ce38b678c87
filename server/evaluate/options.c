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
    else if (o->sfid && !o->fid_ref && !o->make_ref)
        wrong = "--sfid belongs to --fid-ref or --make-ref";
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

#define AT(member) offsetof(struct eval_options, member)

enum imfd_parsed eval_options_parse(struct eval_options *o, int argc, char **argv)
{
    memset(o, 0, sizeof(*o));
    o->argc = argc;
    o->argv = argv;
    o->sampling = (struct imf_sampling)SAMPLING_UNSET;
    static const struct imfd_option options[] = {
        OPTION_CHECKPOINT(AT(checkpoint)),
        OPTION_CHECKPOINT_KEY(AT(checkpoint_key)),
        OPTION_NOISE_SCALE(AT(noise_scale)),
        OPTION_MODEL(AT(model), OPTION_MODEL_HELP),
        OPTION_DECODER(AT(decoder)),
        IMFD_OPTION(STRING, "inception", AT(inception), .argument = "FILE",
                    .help = "InceptionV3 weights, weights-inception-2015-12-05-6726825d.pth"),
        IMFD_OPTION(STRING, "fid-ref", AT(fid_ref), .argument = "FILE",
                    .help =
                        "reference statistics (.npz with mu and sigma); without it no FID. With "
                        "--release-table "
                        "also a folder of jit_in256_stats.npz and jit_in512_stats.npz"),
        IMFD_OPTION(STRING, "images", AT(images), .argument = "DIR",
                    .help = "score the PNG, JPEG and WebP files of this folder, or an .npz's "
                            "arr_0, instead of a "
                            "model"),
        IMFD_OPTION(FLAG, "recursive", AT(recursive), .aliases = "r",
                    .help = "with --images: of its sub-folders, too"),
        IMFD_OPTION(STRING, "make-ref", AT(make_ref), .argument = "FILE",
                    .help = "write the statistics as reference statistics"),
        IMFD_OPTION(FLAG, "keep-features", AT(keep_features),
                    .help =
                        "put the features into --make-ref's file, for KID, precision and recall"),
        IMFD_OPTION(FLAG, "sfid", AT(sfid),
                    .help = "sFID too, which comes by itself where the reference has mu_s and "
                            "sigma_s; with --make-ref they are put into its file"),
        IMFD_OPTION(STRING, "workdir", AT(workdir), .aliases = "w", .argument = "DIR",
                    .help = "folder for progress, reports and pictures"),
        IMFD_OPTION(
            INT, "num-images", AT(num_images), .aliases = "n", .argument = "N", .min = 2,
            .max = 1e8,
            .help =
                "pictures, a multiple of the model's classes; default 50000, with --images all"),
        OPTION_MAX_BATCH(AT(batch), NULL,
                         "pictures computed together (default: 64 on a GPU, 8 on the "
                         "CPU); does not change the result"),
        OPTIONS_SAMPLING(AT(sampling)),
        IMFD_OPTION(UINT64, "sample-seed", AT(sample_seed), .argument = "N", .initial = "42",
                    .help = "image k has the seed k XOR this"),
        IMFD_OPTION(FLAG, "save-samples", AT(save_samples),
                    .help = "keep every picture as WORKDIR/samples/NNNNN.png"),
        IMFD_OPTION(FLAG, "kid", AT(kid),
                    .help = "compute KID too (the reference must hold features)"),
        IMFD_OPTION(INT, "kid-subsets", AT(kid_subsets), .argument = "N", .min = 1, .max = 100000,
                    .initial = "100", .help = "random subsets of KID"),
        IMFD_OPTION(INT, "kid-subset-size", AT(kid_subset_size), .argument = "N", .min = 2,
                    .max = 100000, .initial = "1000", .help = "pictures per subset of KID"),
        IMFD_OPTION(
            FLAG, "precision-recall", AT(precision_recall),
            .help = "compute precision and recall too, k = 3 (the reference must hold features)"),
        OPTIONS_DEVICE(AT(device)),
        IMFD_OPTION(INT, "checkpoint-seconds", AT(checkpoint_s), .argument = "N", .min = 1,
                    .max = 86400, .initial = "120", .help = "save progress this often"),
        IMFD_OPTION(FLAG, "release-table", AT(release_table),
                    .help =
                        "--ckpt-path is a folder: measure every row of the release's table whose "
                        "checkpoint is "
                        "there, each in a folder of its own in the workdir"),
        IMFD_OPTION(FLAG, "restart", AT(restart),
                    .help = "discard what the workdir holds of an earlier evaluation"),
        IMFD_OPTION(FLAG, "quiet", AT(quiet), .aliases = "q", .help = "no progress"),
        {.name = NULL},
    };
    const struct imfd_usage usage = {
        .command = "evaluate",
        .summary = "Measures FID and Inception Score of a model, or of a folder of pictures.",
        .notes = notes,
        .options = options};
    enum imfd_parsed parsed = imfd_options_parse(&usage, o, argc, argv, NULL);
    o->num_images_given = o->num_images != 0;
    o->num_images = o->num_images_given ? o->num_images : 50000;
    if (parsed == IMFD_PARSED_RUN && !check(&usage, o))
        parsed = IMFD_PARSED_ERROR;
    return parsed;
}
