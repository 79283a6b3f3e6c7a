/* clip_bpe.h: the CLIP tokenizer (Stable Diffusion 1.x/2.x, both encoders of SDXL, FLUX's first), as Hugging Face runs
 * it.
 *
 * Text to ids: special tokens are cut out of the text; the rest is cleaned (text_clean.h), split into words by CLIP's
 * regular expression, each word's UTF-8 bytes are mapped to printable letters, the last one marked by "</w>", and
 * merged pair by pair in the order of merges.txt. Start token, at most length-2 ids, end token, padding on the right.
 *
 * Two generations, chosen by enum text_mode (`--text`):
 *   hf5  transformers 5.23, CLIPTokenizer (tokenizers 0.23.3). Special tokens whose `normalized` flag is on are found
 *        in the cleaned text (<|STARTOFTEXT|> counts), others in the raw text. Letters and numbers as in Unicode 16.
 *   hf4  transformers 4.57.6, slow CLIPTokenizer with ftfy 6.3.1 and regex 2026.11.15 under Python 3.11. All special
 *        tokens are found in the raw text, case-sensitively; contractions ('s, 't, ...) match regardless of case, so
 *        'ſ is one too. Letters and numbers as in Unicode 18. Merges beyond the 48,894th count for hf5 only. ftfy's
 *        repair of mojibake is left out (fix_text.h).
 * Word classes come from PCRE2; what the references know beyond PCRE2 10.42's Unicode 14 is listed in clip_vocab.c.
 * With a PCRE2 newer than Unicode 16, hf5 calls the letters of later Unicode versions letters, which tokenizers 0.23.3
 * does not.
 *
 * Files of the folder: vocab.json and merges.txt; optional tokenizer_config.json (model_max_length, special tokens,
 * added_tokens_decoder), special_tokens_map.json (wins over tokenizer_config.json, unless that has
 * added_tokens_decoder), added_tokens.json. Where the pad token is "!" (SD 2.x, SDXL's second), every "!" of a prompt
 * becomes its id by itself. tokenizer.json is not read. Added tokens with lstrip, rstrip or single_word are refused.
 * Merge lists must be such as a trainer writes them (parts before wholes, each whole made one way); only then do both
 * generations merge alike.
 *
 * Checked against both references on 6,000 texts with either pad token (tests/unit/test_clip_bpe.c) and, once, with
 * every code point of planes 0 to 3 in four places of a text: no difference but for mojibake.
 */
#ifndef DL_CLIP_BPE_H
#define DL_CLIP_BPE_H

#include "engine/err.h"
#include "loaders/text_clean.h"
#include "loaders/tokens.h"

#include <stddef.h>

struct clip_bpe; /* immutable after open: any number of threads may read it */

/* The bytes of the five files, for callers that have them in memory. text NULL: no such file (allowed for the last
 * three). */
enum clip_file { CLIP_VOCAB, CLIP_MERGES, CLIP_CONFIG, CLIP_SPECIAL, CLIP_ADDED, CLIP_NFILES };
struct clip_files {
    struct {
        const char *text; /* [bytes] borrowed during the call */
        size_t bytes;
    } file[CLIP_NFILES];
};

/* Opens the tokenizer in folder `dir`. Ids must be 0..n-1, each once; every merge must make a known piece of two known
 * pieces; errors name the file and the line or piece. */
int clip_bpe_open(struct clip_bpe **out, const char *dir, struct dl_err *e);

/* The same from memory; `where` stands before the file names in errors. */
int clip_bpe_parse(struct clip_bpe **out, const struct clip_files *files, const char *where, struct dl_err *e);

void clip_bpe_close(struct clip_bpe *b); /* NULL is fine */

/* Tokenizes the `bytes` bytes of UTF-8 at `text` to max_len ids (0: the model's own length, else 2..65536). Fills *out,
 * which the caller frees; on failure it is left empty. Invalid UTF-8 is an error that names the byte: nothing is
 * replaced silently. truncated: the cut ids as text, as diffusers prints it in its warning (lower case, words apart);
 * its first word is cut where the ids are. Takes about linear time: 100 KB in milliseconds. */
int clip_bpe_run(const struct clip_bpe *b, const char *text, size_t bytes, enum text_mode mode, int max_len,
                 struct token_list *out, struct dl_err *e);

int clip_bpe_pad_id(const struct clip_bpe *b);
int clip_bpe_bos_id(const struct clip_bpe *b);
int clip_bpe_eos_id(const struct clip_bpe *b);
int clip_bpe_vocab_size(const struct clip_bpe *b); /* with added tokens: every id is below it */
int clip_bpe_max_length(const struct clip_bpe *b); /* model_max_length, 77 when absent or above 65536 */

#endif
