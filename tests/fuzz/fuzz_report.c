/* Any bytes as the manifest of a folder that somebody sent: it is refused, or the page made of it has the markup and
 * the scripts of every other page, and its data are JSON. */
#define _GNU_SOURCE /* memmem */
#include "lens/outfile.h"
#include "lens/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

static char dir[64], manifest[96], page[96];

static void at_end(void)
{
    unlink(manifest), unlink(page);
    rmdir(dir);
}

/* In memory where there is a file system for that: a page is synced to the disk. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    snprintf(dir, sizeof dir, "%s/dlens-fuzz-%ld", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (long)getpid());
    snprintf(manifest, sizeof manifest, "%s/manifest.json", dir);
    snprintf(page, sizeof page, "%s/report.html", dir);
    CHECK(!mkdir(dir, 0700));
    atexit(at_end);
    return 0;
}

static int count(const char *text, int64_t n, const char *word)
{
    int found = 0;
    for (const char *at = text, *end = text + n; (at = memmem(at, (size_t)(end - at), word, strlen(word))); at++)
        found++;
    return found;
}

/* What is counted in a page with one prompt, one layer and no picture, and so in all of them. */
static const char *const fixed[] = {"<script", "</script", "<style", "</style", "<img", "<svg",   "<meta",  "<link",
                                    "<dialog", "<input",   "<body",  "</body",  "<!--", "<title", "</title"};
enum { FIXED = sizeof fixed / sizeof *fixed };

static const char plain[] = "{\"schema\": 1, \"dlens\": \"0\", \"command\": \"sweep\", \"model\": {\"title\": \"t\", "
                            "\"name\": \"n\", \"class\": \"c\", "
                            "\"fingerprint\": \"f\"}, \"settings\": {}, \"run\": {}, \"prompts\": [{\"text\": \"p\", "
                            "\"negative\": null, \"seeds\": "
                            "[1]}], \"layers\": [{\"layer\": 1, \"block\": 0}], \"images\": [{\"prompt\": 0, \"seed\": "
                            "1, \"layer\": 1, \"block\": 0, "
                            "\"file\": \"images/p000_s1_k01.png\", \"state\": \"pending\"}]}";

/* The page of a manifest [bytes], or NULL. */
static char *page_of(const void *data, size_t bytes, int64_t *n, struct manifest_doc *d)
{
    struct dl_err e = {0};
    struct report_made made;
    uint8_t *text = NULL;
    FILE *f = fopen(manifest, "wb");
    CHECK(f && fwrite(data, 1, bytes, f) == bytes);
    CHECK(!fclose(f));
    unlink(page);
    if (manifest_read(d, dir, &e) || report_write(dir, d, &(struct report_opts){.max_bytes = 4 << 20}, &made, &e)) {
        CHECK(e.code && *e.msg && access(page, F_OK));
        return NULL;
    }
    CHECK(!made.pictures && !outfile_read(page, 8 << 20, &text, n, &e) && made.bytes == *n);
    return (char *)text;
}

static void check_data(const char *text, int64_t n)
{
    static const char open[] = "<script type=\"application/json\" id=\"data\">";
    const char *at = memmem(text, (size_t)n, open, strlen(open));
    CHECK(at);
    at += strlen(open);
    const char *end = strstr(at, "</script>");
    CHECK(end);
    json_t *data = json_loadb(at, (size_t)(end - at), 0, NULL);
    CHECK(json_array_size(json_object_get(data, "rows")) > 0);
    json_decref(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static int wanted[FIXED];
    struct manifest_doc d = {0};
    int64_t bytes;
    if (!wanted[0]) {
        char *text = page_of(plain, sizeof plain - 1, &bytes, &d);
        CHECK(text);
        for (int i = 0; i < FIXED; i++) wanted[i] = count(text, bytes, fixed[i]);
        CHECK(wanted[0] == 4);
        free(text);
        manifest_doc_close(&d);
    }
    char *text = page_of(data, n, &bytes, &d);
    if (text) {
        for (int i = 0; i < FIXED; i++) CHECK(count(text, bytes, fixed[i]) == wanted[i]);
        CHECK(!memchr(text, 0, (size_t)bytes));
        check_data(text, bytes);
    }
    free(text);
    manifest_doc_close(&d);
    return 0;
}
