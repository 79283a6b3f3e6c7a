#include "lens/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void names_image(char out[NAMES_MAX], const char *folder, int prompt, uint64_t seed, int k)
{
    snprintf(out, NAMES_MAX, "%.16s/p%03d_s%" PRIu64 "_k%02d.png", folder, prompt, seed, k);
}

void names_latent(char out[NAMES_MAX], int prompt, uint64_t seed, int k)
{
    snprintf(out, NAMES_MAX, "p%03d.s%" PRIu64 ".k%02d", prompt, seed, k);
}

void names_snapshot(char out[NAMES_MAX], int prompt, const char *folder, const char *what)
{
    snprintf(out, NAMES_MAX, "p%03d.%.32s.%.32s", prompt, folder, what);
}

void names_grid(char out[NAMES_MAX], bool only_one, int prompt, uint64_t seed, const char *suffix)
{
    if (only_one)
        snprintf(out, NAMES_MAX, "grid.%.8s", suffix);
    else
        snprintf(out, NAMES_MAX, "grid_p%03d_s%" PRIu64 ".%.8s", prompt, seed, suffix);
}

const char *names_suffix(const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    return dot ? dot : path + strlen(path);
}

void names_title(char out[NAMES_MAX], bool blocks, int k)
{
    if (blocks && !k)
        snprintf(out, NAMES_MAX, "Embeddings");
    else
        snprintf(out, NAMES_MAX, "Layer %d", blocks ? k - 1 : k);
}
