# Run by cpack over the laid out files before it packs them: every file and folder gets the time of the
# sources (epoch.cmake), so that the same program makes the same package.
execute_process(COMMAND find ${CPACK_TEMPORARY_INSTALL_DIRECTORY} -exec touch -h -d @$ENV{SOURCE_DATE_EPOCH} {} +
    COMMAND_ERROR_IS_FATAL ANY)
