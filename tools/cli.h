/* cli.h: what all subcommands of dlens share: options of every command, messages, progress and the result.
 *
 * stdout carries results only: the final path, or with --json one object. stderr carries progress and messages;
 * --quiet leaves errors alone there. A command returns its exit status (enum dl_code).
 */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#include "engine/err.h"
#include "engine/run.h"

#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

struct cli {
    const char *command;
    bool json, quiet, dry_run;
    int threads;        /* 0: all */
    const char *device; /* "auto", "cpu", "cuda", "cuda:N" */
    json_t *warnings;   /* array, owned */
    json_t *result;     /* object, owned: what --json prints besides command, seconds and warnings */
    bool tell_failure;  /* with --json the object is printed after a failure too, with "error" in it */
    struct timespec start;
    const char *help; /* printed by --help */
};

/* Values of getopt_long's result for the options of every command; a command's own begin at CLI_OWN. */
enum { CLI_FILE = 1, CLI_JSON = 256, CLI_QUIET, CLI_HELP, CLI_THREADS, CLI_DEVICE, CLI_DRY_RUN, CLI_OWN = 512 };
#define CLI_OPTIONS                                                                                                    \
    {"json", no_argument, NULL, CLI_JSON}, {"quiet", no_argument, NULL, CLI_QUIET},                                    \
        {"help", no_argument, NULL, CLI_HELP}, {"threads", required_argument, NULL, CLI_THREADS},                      \
        {"device", required_argument, NULL, CLI_DEVICE},                                                               \
    {                                                                                                                  \
        "dry-run", no_argument, NULL, CLI_DRY_RUN                                                                      \
    }

/* A subcommand: its options and what it does. */
struct cli_main {
    const char *command, *help;
    const struct option *options;
    bool no_dry_run; /* refuses --dry-run: there is nothing to plan */
    int max_files;   /* how many arguments without a dash it takes; they go to take with v = CLI_FILE */
    /* Takes option v (CLI_OWN and above, with optarg) or a CLI_FILE; < 0 with the error. */
    int (*take)(void *user, int v, struct dl_err *e);
    /* The work; `line` [4096] may be given what is printed on stdout without --json. */
    int (*run)(struct cli *c, void *user, char *line, struct dl_err *e);
};

/* Parses, runs, reports: the exit status. */
int cli_main(int argc, char **argv, const struct cli_main *m, void *user);

/* Messages on stderr, unless quiet. A warning is also kept for --json; long ones are cut. */
void cli_say(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_warn(struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string of any bytes (paths need not be UTF-8): what is not UTF-8 becomes U+FFFD. */
json_t *cli_string(const char *text);

double cli_seconds(const struct cli *c); /* since the command began */
int64_t cli_peak_rss(void);              /* bytes, VmHWM */

/* Opens the device that --device names. */
int cli_device(const struct cli *c, const struct dl_backend **be, struct dl_ctx **ctx, struct dl_err *e);

/* Ctrl-C: the first sets the flag, the second ends the process at once. */
const volatile sig_atomic_t *cli_catch_interrupt(void);

/* "1.5 GiB" into out [32], which it returns. */
char *cli_bytes(char out[32], int64_t bytes);
/* "3 min 20 s" into out [32]. */
char *cli_duration(char out[32], double seconds);

/* Whole-string numbers; the error names the option. */
int cli_int(const char *option, const char *text, int64_t min, int64_t max, int64_t *out, struct dl_err *e);
int cli_float(const char *option, const char *text, double min, double max, double *out, struct dl_err *e);
/* The index of text in names [n], or -1 with an error that lists them. */
int cli_choice(const char *option, const char *text, int n, const char *const *names, struct dl_err *e);

int cmd_bench(int argc, char **argv);
int cmd_curves(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_encode(int argc, char **argv);
int cmd_figure(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_sweep(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_tokens(int argc, char **argv);

#endif
