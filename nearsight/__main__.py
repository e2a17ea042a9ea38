from nearsight.cli import main

main()
