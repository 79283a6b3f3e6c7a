#include "tools/cli.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int, char **);
    const char *what;
} commands[] = {
    {"demo", cmd_demo, "a real sweep on the small model that comes with dlens; nothing to download"},
    {"sweep", cmd_sweep, "one image for each layer of a text encoder"},
    {"encode", cmd_encode, "store every hidden state of prompts"},
    {"replay", cmd_replay, "images from stored hidden states"},
    {"tokens", cmd_tokens, "how prompts are cut into tokens, and what is cut off"},
    {"figure", cmd_figure, "draw a sweep's grid again: PNG, PDF or SVG"},
    {"report", cmd_report, "one HTML page of a sweep: a slider over layers, scores"},
    {"curves", cmd_curves, "layer curves from annotation files: a table, a plot, CSV"},
    {"inspect", cmd_inspect, "what a model folder holds, lacks and needs"},
    {"bench", cmd_bench, "how fast: kernels, steps, sweeps; what a sweep would take on a card"},
    {"synth", cmd_synth, "a synthetic checkpoint of a real model's shapes"},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static void usage(FILE *f)
{
    fputs("usage: dlens COMMAND [options]        dlens COMMAND --help        dlens --version\n\n"
          "Diffusion Lens: what a text encoder has understood after each of its layers, as pictures.\n\n",
          f);
    for (int i = 0; i < COMMANDS; i++) fprintf(f, "  %-8s %s\n", commands[i].name, commands[i].what);
    fputs("\nFirst steps:\n"
          "  dlens demo\n"
          "  dlens sweep --model stable-diffusion-v1-5 --prompt \"A giraffe in a house\" --out giraffe\n",
          f);
}

int main(int argc, char **argv)
{
    if (argc < 2) return usage(stderr), DL_EUSAGE;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) return usage(stdout), 0;
    if (!strcmp(argv[1], "--version")) return printf("dlens %s\n", DLENS_VERSION) < 0;
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name)) return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "dlens: %s: no such command; dlens --help lists them\n", argv[1]);
    return DL_EUSAGE;
}
