"""Start a training on several processes; options as torchrun's."""

from avion_core.train.torchrun import main

if __name__ == "__main__":
    main()
