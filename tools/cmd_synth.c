#include "tools/synth.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_synth(int argc, char **argv);

static void help(void)
{
    printf("usage: dlens synth --like NAME --out DIR [options]\n"
           "\n"
           "Writes a synthetic checkpoint in diffusers layout: the tensors and configs of a real model with random values\n"
           "of sane size, for tests and benchmarks without a download. The same options give the same bytes everywhere.\n"
           "\n"
           "  --like NAME       the model to imitate: %s\n"
           "  --scale SCALE     tiny (default, less than 2 MB) or full (the real size)\n"
           "  --out DIR         the folder to write\n"
           "  --tokenizer DIR   use this folder's vocab.json and merges.txt instead of a made-up vocabulary\n"
           "  --dtype TYPE      f32 (default), f16 or bf16\n"
           "  --seed N          another seed gives other values (default 0)\n"
           "  --help            this text\n",
           synth_names());
}

static int usage(const char *what, const char *value)
{
    fprintf(stderr, "dlens synth: %s%s (see dlens synth --help)\n", what, value ? value : "");
    return DL_EUSAGE;
}

int cmd_synth(int argc, char **argv)
{
    enum { LIKE = 256, SCALE, OUT, TOKENIZER, DTYPE, SEED, HELP };
    static const struct option options[] = {
        {"like", required_argument, NULL, LIKE},           {"scale", required_argument, NULL, SCALE},
        {"out", required_argument, NULL, OUT},             {"tokenizer", required_argument, NULL, TOKENIZER},
        {"dtype", required_argument, NULL, DTYPE},         {"seed", required_argument, NULL, SEED},
        {"help", no_argument, NULL, HELP},                 {NULL, 0, NULL, 0},
    };
    struct synth_opts o = {.type = DL_F32};
    char *end;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case LIKE: o.like = optarg; break;
        case OUT: o.out = optarg; break;
        case TOKENIZER: o.tokenizer = optarg; break;
        case SCALE:
            o.full = !strcmp(optarg, "full");
            if (!o.full && strcmp(optarg, "tiny")) return usage("--scale is tiny or full, not ", optarg);
            break;
        case DTYPE:
            for (o.type = 0; o.type < DL_NTYPES && strcmp(optarg, dl_type_name(o.type)); o.type++) {}
            if (o.type > DL_BF16) return usage("--dtype is f32, f16 or bf16, not ", optarg);
            break;
        case SEED:
            errno = 0;
            o.seed = strtoull(optarg, &end, 10);
            if (errno || *end || *optarg < '0' || *optarg > '9') return usage("--seed is a whole number, not ", optarg);
            break;
        case HELP: help(); return 0;
        default: return DL_EUSAGE; /* getopt has said what */
        }
    }
    if (optind < argc) return usage("takes no argument ", argv[optind]);
    if (!o.like) return usage("--like NAME is missing; known: ", synth_names());
    if (!o.out) return usage("--out DIR is missing", NULL);
    struct dl_err e = {0};
    if (synth_write(&o, &e) < 0) {
        fprintf(stderr, "dlens synth: %s\n", e.msg);
        return e.code;
    }
    printf("%s\n", o.out);
    return 0;
}
