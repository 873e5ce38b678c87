# Run by cpack over the laid out files before it packs them: every file and folder gets the time of the
# sources (epoch.cmake) and folders their usual mode whatever the umask, so that the same program makes the
# same package.
foreach(command "touch;-h;-d;@$ENV{SOURCE_DATE_EPOCH}" "chmod;u=rwX,go=rX")
    execute_process(COMMAND find ${CPACK_TEMPORARY_INSTALL_DIRECTORY} -exec ${command} {} +
        COMMAND_ERROR_IS_FATAL ANY)
endforeach()
