# What `cmake --install` lays out beyond the program and the demo model, and what cpack makes of it:
#   cpack --config build/release/CPackConfig.cmake          imfd_VERSION_ARCH.deb
#   cpack --config build/release/CPackSourceConfig.cmake    imfd-VERSION.tar.gz
# Components: runtime (program, demo model, manual), dev (libimf), service (systemd, /etc), mpi.
set(packaging ${PROJECT_SOURCE_DIR}/tools/packaging)

# ---- libimf: the engine for programs of others. One archive, one header, one pkg-config file. ----
install(TARGETS imf ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev)
install(FILES ${PROJECT_SOURCE_DIR}/engine/imf.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
configure_file(${packaging}/libimf.pc.in ${PROJECT_BINARY_DIR}/libimf.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/libimf.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)

# ---- Manual, completion, documents ----
configure_file(${packaging}/imfd.1.in ${PROJECT_BINARY_DIR}/imfd.1 @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/imfd.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT runtime)
install(FILES ${packaging}/imfd.bash RENAME imfd
    DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT runtime)
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/docs/api.md
    ${PROJECT_SOURCE_DIR}/docs/operations.md ${packaging}/copyright
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/imfd COMPONENT runtime)
# What is in it and what it is linked with, of the program as it was just laid out (stripped or not).
install(CODE "
    set(prefix \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX})
    set(bill \${prefix}/${CMAKE_INSTALL_DATADIR}/doc/imfd/sbom.json)
    execute_process(COMMAND python3 ${packaging}/sbom.py \${prefix}/${CMAKE_INSTALL_BINDIR}/imfd
        OUTPUT_FILE \${bill} RESULT_VARIABLE failed)
    if(failed)
        file(REMOVE \${bill})
        message(STATUS \"no sbom.json: tools/packaging/sbom.py needs Python, and imfd to run\")
    else()
        file(CHMOD \${bill} PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
    endif()" COMPONENT runtime)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/conf/ DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/imfd/examples
    COMPONENT runtime)

# ---- The service. Absolute folders: systemd looks in /lib, and settings live in /etc. Always in the
# package; `cmake --install` lays it out where the prefix is the package's. ----
set(if_asked EXCLUDE_FROM_ALL)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
    set(if_asked)
endif()
install(FILES ${PROJECT_SOURCE_DIR}/conf/imfd.service ${PROJECT_SOURCE_DIR}/conf/imfd.socket
    DESTINATION /lib/systemd/system COMPONENT service ${if_asked})
install(FILES ${PROJECT_SOURCE_DIR}/conf/imfd.json DESTINATION /etc/imfd COMPONENT service ${if_asked})
install(FILES ${packaging}/default RENAME imfd DESTINATION /etc/default COMPONENT service ${if_asked})

# ---- Packages ----
set(CPACK_PACKAGE_NAME imfd)
set(CPACK_PACKAGE_VENDOR imfd)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "HTTP server of pictures from Improved Mean Flows models")
set(CPACK_PACKAGE_DESCRIPTION
    "imfd draws class-conditional pictures with the MiT models (one network evaluation each)
on CPUs and NVIDIA GPUs, and serves them over HTTP: as resources that caches can keep, as
streams, and through the OpenAI Images API. The package brings a small demo model.")
set(CPACK_PACKAGE_CONTACT "the imfd maintainers <imfd@localhost>")
set(CPACK_STRIP_FILES ON)
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_IMFD_SOURCE ${PROJECT_SOURCE_DIR}) # for epoch.cmake
set(CPACK_PROJECT_CONFIG_FILE ${packaging}/epoch.cmake)
set(CPACK_PRE_BUILD_SCRIPTS ${packaging}/stage.cmake)

set(CPACK_GENERATOR DEB)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL runtime service)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION web)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON) # Depends, from what the program is linked with
# Loaded when they are needed, and not linked: OpenBLAS and LAPACKE.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "passwd, libopenblas0, liblapacke")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${packaging}/deb/postinst ${packaging}/deb/prerm
    ${packaging}/deb/postrm ${packaging}/deb/conffiles)

set(CPACK_SOURCE_GENERATOR TGZ)
set(CPACK_SOURCE_PACKAGE_FILE_NAME imfd-${PROJECT_VERSION})
set(CPACK_SOURCE_IGNORE_FILES "${PROJECT_SOURCE_DIR}/build/" "/\\.git(/|$)" "__pycache__" "\\.pyc$"
    "/compile_commands\\.json$")
include(CPack)
