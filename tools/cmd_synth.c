#include "tools/cli.h"
#include "tools/synth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char help[] =
    "usage: dlens synth --like NAME --out DIR [options]\n"
    "\n"
    "Writes a synthetic checkpoint in diffusers layout: the tensors and configs of a real model with random values of\n"
    "sane size, for tests and benchmarks without a download. The same options give the same bytes everywhere.\n"
    "\n"
    "  --like NAME       the model to imitate: sd15, sd21, sdxl, if, if-m, if-xl, if2, flux or flux-dev\n"
    "  --scale SCALE     tiny (default, about 2 MB) or full (the real size)\n"
    "  --out DIR         the folder to write\n"
    "  --tokenizer DIR   take vocab.json and merges.txt, or spiece.model, from this folder instead of making them up\n"
    "  --dtype TYPE      f32 (default), f16 or bf16\n"
    "  --seed N          another seed gives other values (default 0)\n"
    "  --json, --quiet, --help\n";

enum { LIKE = CLI_OWN, SCALE, OUT, TOKENIZER, DTYPE, SEED };

static const struct option options[] = {CLI_OPTIONS,
                                        {"like", required_argument, NULL, LIKE},
                                        {"scale", required_argument, NULL, SCALE},
                                        {"out", required_argument, NULL, OUT},
                                        {"tokenizer", required_argument, NULL, TOKENIZER},
                                        {"dtype", required_argument, NULL, DTYPE},
                                        {"seed", required_argument, NULL, SEED},
                                        {0}};

static int take(void *user, int v, struct dl_err *e)
{
    static const char *const scales[] = {"tiny", "full"}, *const types[] = {"f32", "f16", "bf16"};
    static const int type_of[] = {DL_F32, DL_F16, DL_BF16};
    struct synth_opts *o = user;
    char *end;
    int i;
    switch (v) {
    case LIKE: o->like = optarg; break;
    case OUT: o->out = optarg; break;
    case TOKENIZER: o->tokenizer = optarg; break;
    case SCALE:
        if ((i = cli_choice("--scale", optarg, 2, scales, e)) < 0) return -1;
        o->full = i == 1;
        break;
    case DTYPE:
        if ((i = cli_choice("--dtype", optarg, 3, types, e)) < 0) return -1;
        o->type = type_of[i];
        break;
    case SEED: /* all 64 bits */
        errno = 0;
        o->seed = strtoull(optarg, &end, 10);
        if (errno || *end || *optarg < '0' || *optarg > '9')
            return dl_fail(e, DL_EUSAGE, "--seed %s: a whole number from 0 to 18446744073709551615 is expected",
                           optarg);
        break;
    }
    return 0;
}

static int synth(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct synth_opts *o = user;
    char path[4200];
    snprintf(path, sizeof path, "%s/model_index.json", o->out ? o->out : "");
    if (o->out && access(path, F_OK) == 0)
        return dl_fail(e, DL_EUSAGE, "--out %s: this folder holds a model; name another, or remove it first", o->out);
    if (synth_write(o, e) < 0) return -1;
    snprintf(line, 4096, "%s", o->out);
    json_object_set_new(c->result, "out", cli_string(o->out));
    json_object_set_new(c->result, "like", json_string(o->like));
    return 0;
}

int cmd_synth(int argc, char **argv)
{
    struct synth_opts o = {.type = DL_F32};
    return cli_main(
        argc, argv,
        &(struct cli_main){
            .command = "synth", .help = help, .options = options, .no_dry_run = true, .take = take, .run = synth},
        &o);
}
