#include "tools/bench/roofline.h"

bool roofline_built(void) { return false; }

int roofline_draw(const char *path, const struct roofline *r, struct dl_err *e)
{
    (void)r;
    return dl_fail(e, DL_EUSAGE, "--plot %s: this dlens was built without cairo", path);
}
