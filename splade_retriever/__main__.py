"""`python -m splade_retriever`: the `splade` command."""

from splade_retriever.cli.commands import main

if __name__ == "__main__":
    main()
