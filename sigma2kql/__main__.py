"""`python -m sigma2kql`."""

from sigma2kql.cli import main

if __name__ == "__main__":
    main()
