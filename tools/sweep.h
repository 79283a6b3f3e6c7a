/* sweep.h: the sweep itself, which `dlens sweep` and `dlens demo` run. */
#ifndef TOOLS_SWEEP_H
#define TOOLS_SWEEP_H

#include "tools/gen.h"

/* Opens device and model, plans, encodes, makes the images and the figures. line [4096] receives the path of the figure
 * (of the folder where there are several). */
int sweep_run(struct cli *c, const struct gen_args *a, const struct prompts *ps, char *line, struct dl_err *e);

#endif
