/* synth_here.h: the maker of synthetic checkpoints, compiled into the test that includes this; first of its includes.
 */
#ifndef TESTS_SYNTH_HERE_H
#define TESTS_SYNTH_HERE_H

#include "tools/synth.c"
#include "tools/synth_sd.c"
#include "tools/synth_value.c"
#include "tools/synth_vocab.c"

#endif
