"""Start a training on several processes; same options as torchrun."""

from avion_core.train.torchrun import main

if __name__ == "__main__":
    main()
