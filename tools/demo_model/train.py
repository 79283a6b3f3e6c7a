"""Trains the demo model, from nothing or from where it was stopped:  python train.py --work FOLDER

Stages, each skipped when it is done: the autoencoder; the text encoder's start; the latents of the training scenes;
the text encoder and the UNet together. Checkpoints are written every minute or few and at SIGTERM; the same command
goes on from them.
"""
import argparse
import os

from parallel import launch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for checkpoints and logs")
    parser.add_argument("--processes", type=int, default=2, help="processes of one thread each (default 2)")
    parser.add_argument("--vae-steps", type=int, default=3800)
    parser.add_argument("--vae-rate", type=float, default=2e-3)
    parser.add_argument("--text-steps", type=int, default=2300)
    parser.add_argument("--minutes", type=float, default=90, help="of diffusion training, earlier runs counted in")
    parser.add_argument("--scenes", type=int, default=40000, help="scenes whose latents are cached")
    stages = ("all", "vae", "text", "diffusion")
    parser.add_argument("--stage", choices=stages, default="all", help="run one stage only")
    options = parser.parse_args()
    os.makedirs(options.work, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import train_diffusion
    import train_text
    import train_vae

    if options.stage in ("all", "vae"):
        launch(train_vae.run, options)
    if options.stage in ("all", "text"):
        launch(train_text.run, options)
    if options.stage in ("all", "diffusion"):
        launch(train_diffusion.run, options)


if __name__ == "__main__":
    main()
