/* t5_tokens.h: the T5 tokenizer (DeepFloyd IF, FLUX's second), as Hugging Face runs it.
 *
 * It does what transformers 5.23's T5Tokenizer (tokenizers 0.23) does with a spiece.model, id for id. That is not quite
 * what the sentencepiece library does with the same file, which is why the file is read and searched here:
 *   1. "</s>", "<pad>", "<unk>" and "<extra_id_0>".."<extra_id_99>" in the text become their ids; the rest is taken
 *      stretch by stretch.
 *   2. The file's character map (NMT's NFKC) is applied to each grapheme cluster of less than six bytes, otherwise to
 *      each of its characters; the first, that is the shortest, entry that fits a cluster replaces all of it, so that
 *      an accent may be lost where sentencepiece keeps it.
 *   3. Split at Unicode white space (U+0085 counts, unlike in sentencepiece); each word begins with U+2581.
 *   4. Of all ways to spell a word with pieces, the one with the highest sum of scores, in double precision; a
 *      character without a piece costs 10 more than the worst piece; neighbours without one become one <unk>.
 *   5. "</s>" behind it all, after cutting to max_tokens - 1 ids; "<pad>" on the right.
 * Of the 5,987 texts of the test, most of them made to be nasty, sentencepiece itself gives other ids for 132; for
 * plain text there is no difference. So it is with transformers 4.57.6, whose slow T5Tokenizer runs sentencepiece over
 * the whole stretch (and adds no second "</s>" to a text that ends with one): `--text` therefore changes nothing here.
 *
 * Files of the folder: spiece.model (protobuf); optional tokenizer_config.json (model_max_length, extra_ids; both it
 * and special_tokens_map.json are checked for special tokens other than T5's, which are refused). tokenizer.json is not
 * read. T5's vocabulary begins with <pad>, </s>, <unk>; what does not is refused by name, as are BPE models, byte
 * pieces and user-defined pieces, which no T5 has. Clusters are those of this machine's utf8proc.
 *
 * Source: transformers tokenization_t5.py; tokenizers models/unigram/model.rs, normalizers/precompiled.rs; the crate
 * spm_precompiled; sentencepiece_model.proto.
 */
#ifndef DL_T5_TOKENS_H
#define DL_T5_TOKENS_H

#include "engine/err.h"
#include "loaders/tokens.h"

#include <stddef.h>

struct t5_tokens; /* immutable after open: any number of threads may read it */

enum { T5_PAD = 0, T5_EOS = 1, T5_UNK = 2 };

/* The bytes of the three files, for callers that have them in memory. data NULL: no such file (not for the first). */
enum t5_file { T5_SPIECE, T5_CONFIG, T5_SPECIAL, T5_NFILES };
struct t5_files {
    struct {
        const char *data; /* [bytes] borrowed during the call */
        size_t bytes;
    } file[T5_NFILES];
};

/* Opens the tokenizer in folder `dir` (tokenizer/ of IF, tokenizer_2/ of FLUX). Errors name the file and the place. */
int t5_tokens_open(struct t5_tokens **out, const char *dir, struct dl_err *e);

/* The same from memory; `where` stands before the file names in errors. */
int t5_tokens_parse(struct t5_tokens **out, const struct t5_files *files, const char *where, struct dl_err *e);

void t5_tokens_close(struct t5_tokens *t); /* NULL is fine */

/* Tokenizes the `bytes` bytes of UTF-8 at `text` to max_tokens ids (0: the tokenizer's own length, else 1..65536).
 * Fills *out, which the caller frees; on failure it is left empty. The attention mask is 1 for the first out->n_pieces
 * ids, 0 for the padding behind them. truncated: the cut text, normalised as in steps 1 to 3. Invalid UTF-8 is an error
 * that names the byte. */
int t5_tokens_run(const struct t5_tokens *t, const char *text, size_t bytes, int max_tokens, struct token_list *out,
                  struct dl_err *e);

int t5_tokens_vocab_size(const struct t5_tokens *t); /* with the extra ids: 32100; every id is below it */
int t5_tokens_max_length(const struct t5_tokens *t); /* model_max_length, 512 when absent or above 65536 */

#endif
