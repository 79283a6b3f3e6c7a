#include "tools/cli.h"
#include "kernels/cpu/cpu.h"
#ifdef DLENS_HAVE_CUDA
#include "kernels/cuda/cuda.h"
#endif

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    if (interrupted) _exit(DL_EINTERRUPT);
    interrupted = 1;
}

const volatile sig_atomic_t *cli_catch_interrupt(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    return &interrupted;
}

/* What is wrong with an option that getopt_long refuses. */
static int bad_option(const struct cli_main *m, const char *given, struct dl_err *e)
{
    size_t n = strcspn(given, "=");
    int fits = 0;
    if (optopt >= CLI_JSON)
        return dl_fail(e, DL_EUSAGE, "%.*s takes no value; see dlens %s --help", (int)n, given, m->command);
    for (const struct option *o = m->options; n > 2 && o->name; o++) fits += !strncmp(o->name, given + 2, n - 2);
    return dl_fail(e, DL_EUSAGE, "%s: %s; see dlens %s --help", given,
                   fits > 1 ? "could be several options" : "no such option", m->command);
}

/* Reads the next option: a command's own value, -1 at the end, 0 when it was one of every command (go on), -2 after an
 * unknown one (in e) and -3 after --help was printed. */
static int next(struct cli *c, int argc, char **argv, const struct cli_main *m, struct dl_err *e)
{
    int at = optind, v = getopt_long(argc, argv, "-:h", m->options, NULL);
    int64_t n = 0;
    switch (v) {
    case CLI_JSON: c->json = true; return 0;
    case CLI_QUIET: c->quiet = true; return 0;
    case CLI_DRY_RUN: c->dry_run = true; return 0;
    case CLI_DEVICE: c->device = optarg; return 0;
    case CLI_THREADS:
        if (cli_int("--threads", optarg, 1, 4096, &n, e) < 0) return -2;
        c->threads = (int)n;
        return 0;
    case 'h':
    case CLI_HELP: fputs(m->help, stdout); return -3;
    case ':': dl_fail(e, DL_EUSAGE, "%s needs a value; see dlens %s --help", argv[optind - 1], c->command); return -2;
    case '?': bad_option(m, argv[at < argc ? at : argc - 1], e); return -2;
    default: return v;
    }
}

/* Prints the result: with --json the object, else `line`. */
static int done(struct cli *c, const char *line)
{
    if (c->json) {
        json_object_set_new(c->result, "command", json_string(c->command));
        json_object_set_new(c->result, "seconds", json_real(cli_seconds(c)));
        json_object_set(c->result, "warnings", c->warnings);
        if (json_dumpf(c->result, stdout, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(9)) < 0 &&
            !ferror(stdout)) {
            fprintf(stderr, "dlens %s: no memory for the result\n", c->command);
            return DL_ENOMEM;
        }
        putchar('\n');
    } else if (*line) {
        puts(line);
    }
    if (fflush(stdout) == 0) return 0;
    fprintf(stderr, "dlens %s: cannot write to stdout: %s\n", c->command, strerror(errno));
    return DL_EFAIL;
}

static int fail(struct cli *c, const struct dl_err *e)
{
    fprintf(stderr, "dlens %s: %s\n", c->command, e->msg);
    if (c->json && c->tell_failure) {
        json_object_set_new(c->result, "error", cli_string(e->msg));
        done(c, "");
    }
    return e->code ? (int)e->code : DL_EFAIL;
}

int cli_main(int argc, char **argv, const struct cli_main *m, void *user)
{
    struct cli c = {.command = m->command, .device = "auto", .warnings = json_array(), .result = json_object()};
    struct dl_err e = {0};
    char line[4096] = "";
    int rc = 0, v = 0, files = 0;
    clock_gettime(CLOCK_MONOTONIC, &c.start);
    opterr = 0, optind = 1;
    while (rc == 0 && (v = next(&c, argc, argv, m, &e)) >= 0) {
        if (v == CLI_FILE && files++ == m->max_files)
            rc = dl_fail(&e, DL_EUSAGE, "%s: unexpected; see dlens %s --help", optarg, m->command);
        else if (v)
            rc = m->take(user, v, &e);
    }
    for (; rc == 0 && v == -1 && optind < argc; optind++) { /* behind "--" */
        optarg = argv[optind];
        rc = files++ == m->max_files ? dl_fail(&e, DL_EUSAGE, "%s: unexpected; see dlens %s --help", optarg, m->command)
                                     : m->take(user, CLI_FILE, &e);
    }
    if (rc == 0 && v == -1 && c.dry_run && m->no_dry_run)
        rc = dl_fail(&e, DL_EUSAGE, "--dry-run: dlens %s has no plan to show", m->command);
    if (rc == 0 && v == -1) rc = m->run(&c, user, line, &e);
    if (v == -3)
        rc = 0;
    else
        rc = rc < 0 || v == -2 ? fail(&c, &e) : done(&c, line);
    json_decref(c.warnings);
    json_decref(c.result);
    return rc;
}

void cli_say(const struct cli *c, const char *fmt, ...)
{
    if (c->quiet) return;
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void cli_warn(struct cli *c, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    json_array_append_new(c->warnings, cli_string(text));
    if (!c->quiet) fprintf(stderr, "warning: %s\n", text);
}

/* Bytes of the UTF-8 character at s, 0 when there is none. */
static int utf8_bytes(const unsigned char *s)
{
    int n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : *s >= 0xe0 && *s < 0xf0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf0 && s[1] < 0x90) ||
        (*s == 0xf4 && s[1] >= 0x90))
        return 0;
    return n;
}

json_t *cli_string(const char *text)
{
    char *out = malloc(3 * strlen(text) + 1), *to = out;
    if (!out) return NULL;
    for (const char *s = text; *s;) {
        int n = utf8_bytes((const unsigned char *)s);
        memcpy(to, n ? s : "\xef\xbf\xbd", (size_t)(n ? n : 3));
        to += n ? n : 3, s += n ? n : 1;
    }
    json_t *v = json_stringn_nocheck(out, (size_t)(to - out));
    free(out);
    return v;
}

double cli_seconds(const struct cli *c)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - c->start.tv_sec) + (double)(now.tv_nsec - c->start.tv_nsec) * 1e-9;
}

int64_t cli_peak_rss(void)
{
    char line[256];
    long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld", &kib) == 1) break;
    if (f) fclose(f);
    return kib * 1024;
}

#ifdef DLENS_HAVE_CUDA
static void tell_measuring(void *user, int64_t before)
{
    if (before) return;
    cli_say(user, "this card's first run of some shapes: measuring which kernels are the fastest for them, and keeping "
                  "that for later runs");
}
#endif

/* Number N of "cuda:N" (0 for "cuda"). */
static int open_cuda(const struct cli *c, const struct dl_backend **be, struct dl_ctx **ctx, struct dl_err *e)
{
    const char *device = c->device;
#ifdef DLENS_HAVE_CUDA
    int64_t n = 0;
    if (device[4] && cli_int("--device cuda:", device + 5, 0, 1023, &n, e) < 0) return -1;
    const char *own = getenv("DLENS_CUDA_OWN"); /* 1: without cuBLASLt, to tell whose fault something is */
    const struct dl_cuda_opts o = {
        .device = (int)n, .no_libraries = own && !strcmp(own, "1"), .measuring = tell_measuring, .user = (void *)c};
    return cuda_open(be, ctx, &o, e);
#else
    (void)be, (void)ctx;
    return dl_fail(e, DL_ENOMEM, "--device %s: this dlens was built without a CUDA backend; use --device cpu", device);
#endif
}

int cli_device(const struct cli *c, const struct dl_backend **be, struct dl_ctx **ctx, struct dl_err *e)
{
    if (!strncmp(c->device, "cuda", 4) && (!c->device[4] || c->device[4] == ':')) return open_cuda(c, be, ctx, e);
    if (strcmp(c->device, "auto") && strcmp(c->device, "cpu"))
        return dl_fail(e, DL_EUSAGE, "--device %s: known are auto, cpu, cuda and cuda:N", c->device);
    return cpu_open(be, ctx, &(struct dl_cpu_opts){.threads = c->threads}, e);
}

char *cli_bytes(char out[32], int64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int i = 0;
    while (v >= 1024 && i < 4) v /= 1024, i++;
    snprintf(out, 32, i ? "%.1f %s" : "%.0f %s", v, unit[i]);
    return out;
}

char *cli_duration(char out[32], double seconds)
{
    long long s = (long long)(seconds + 0.5);
    if (seconds < 10)
        snprintf(out, 32, "%.1f s", seconds);
    else if (s < 60)
        snprintf(out, 32, "%lld s", s);
    else if (s < 3600)
        snprintf(out, 32, "%lld min %02lld s", s / 60, s % 60);
    else
        snprintf(out, 32, "%lld h %02lld min", s / 3600, s % 3600 / 60);
    return out;
}

int cli_int(const char *option, const char *text, int64_t min, int64_t max, int64_t *out, struct dl_err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (!*text || *end || errno || v < min || v > max)
        return dl_fail(e, DL_EUSAGE, "%s %s: expected a whole number from %lld to %lld", option, text, (long long)min,
                       (long long)max);
    *out = v;
    return 0;
}

int cli_float(const char *option, const char *text, double min, double max, double *out, struct dl_err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (!*text || *end || !isfinite(v) || v < min || v > max)
        return dl_fail(e, DL_EUSAGE, "%s %s: expected a number from %g to %g", option, text, min, max);
    *out = v;
    return 0;
}

int cli_choice(const char *option, const char *text, int n, const char *const *names, struct dl_err *e)
{
    char all[512] = "";
    for (int i = 0; i < n; i++) {
        if (!strcmp(text, names[i])) return i;
        size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, "%s%s", i ? i + 1 < n ? ", " : " or " : "", names[i]);
    }
    return dl_fail(e, DL_EUSAGE, "%s %s: expected %s", option, text, all);
}
