/* model_id.h: telling one checkpoint from another without reading gigabytes. */
#ifndef LENS_MODEL_ID_H
#define LENS_MODEL_ID_H

#include "lens/sha256.h"
#include "loaders/model_dir.h"

/* SHA-256 over model_index.json's components, their config files, and of every tensor its name, type, shape and 64
 * bytes out of its middle. Equal for a copy in another place; different for a fine-tune. */
int model_fingerprint(const struct model_dir *m, char hex[SHA256_HEX], struct dl_err *e);

#endif
